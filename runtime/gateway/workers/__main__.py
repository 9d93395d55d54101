"""The program of a worker process; the gateway starts it with the number of a socket."""

import sys

from tunnelfleet.runtime.gateway.workers.worker import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
