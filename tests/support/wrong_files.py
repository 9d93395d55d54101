"""Wrong configuration files: each with the line and the words of its message.

A row is (text of the file, line, key, what the message says). `{T}` stands for the path of a file
with a token, `{C}` for one with a certificate. Lines are counted from 1.
"""

from __future__ import annotations

GOOD = 'name = "a"\nmode = "destination"\nregion = "eu-west-1"\naccess_token_file = "{T}"\n'
"""Lines 2 to 5 behind a `[[tunnel]]`; `services` is line 6."""
HEAD = "[[tunnel]]\n" + GOOD
WHOLE = HEAD + 'services = {{ SSH = "127.0.0.1:22" }}\n'
SOURCE = WHOLE.replace("destination", "source").replace(":22", ":0")
ADDRESS = "write PORT, HOST:PORT, [IPV6]:PORT or /path/to/socket"
REGION = WHOLE.replace('region = "eu-west-1"\n', "")


def gateway(line: str) -> str:
    return f"[gateway]\n{line}\n"


def tunnel(line: str) -> str:
    """A whole destination and one more line, the seventh."""
    return f"{WHOLE}{line}\n"


Row = tuple[str, int, str, str]

SYNTAX: dict[str, Row] = {
    "no value": (gateway("name = gw"), 2, "toml", 'text needs "quotes"'),
    "python's True": (gateway("metrics_open = True"), 2, "toml", "true and false are lower case"),
    "open text": (gateway('name = "gw'), 2, "toml", "a text is not closed on its line"),
    "no equals sign": (gateway("name"), 2, "toml", "write KEY = VALUE"),
    "colon": (gateway('name: "gw"'), 2, "toml", "write KEY = VALUE"),
    "two on a line": (gateway('name = "a" state = "b"'), 2, "toml", "one KEY = VALUE on a line"),
    "a mode": (gateway("admin_mode = 0660"), 2, "toml", 'in quotes: "0660"'),
    "a mode, with a remark": (gateway("admin_mode = 007 # all"), 2, "toml", 'in quotes: "0660"'),
    "set twice": (gateway('name = "a"\nname = "b"'), 3, "toml", "set twice"),
    "table twice": ('[gateway]\nname = "a"\n[gateway]\n', 3, "toml", "declared twice"),
    "open list": ('[[door_rule]]\nusers = ["a"\n', 2, "toml", "end it with a ]"),
    "open table": ("[gateway\n", 1, "toml", "[TABLE]"),
    "backslash": (gateway(r'door_users_file = "C:\users"'), 2, "toml", "single quotes"),
    "thousands of digits": (
        gateway(f"name = 'a'\nconnect_rate = {'1' * 5_000}"),
        3,
        "toml",
        "too many digits",
    ),
    "byte order mark": ("\ufeff[gateway]\n", 1, "toml", "byte order mark"),
    "expanded in braces": (
        tunnel("services.HTTP = 80"),
        7,
        "toml",
        "put all of it in one place",
    ),
}

TOP: dict[str, Row] = {
    "unknown table": ("[gatway]\n", 1, "gatway", "did you mean gateway?"),
    "far from any": ("[zzz]\n", 1, "zzz", "there are gateway, defaults, tunnel, door_rule"),
    "key at the top": ('name = "x"\n', 1, "name", "there is no such table"),
    "single brackets": ('[tunnel]\nname = "a"\n', 1, "tunnel", "write [[tunnel]]"),
    "gateway is a text": ('gateway = "x"\n', 1, "gateway", "write a table"),
    "tunnels of text": ('tunnel = ["a"]\n', 1, "tunnel[1]", "write [[tunnel]]"),
    "single brackets of a rule": ("[door_rule]\n", 1, "door_rule", "write [[door_rule]]"),
}

GATEWAY: dict[str, Row] = {
    "unknown key": (gateway('nme = "x"'), 2, "gateway.nme", "did you mean name?"),
    "empty name": (gateway('name = ""'), 2, "gateway.name", "1 to 200 printable"),
    "control character": (gateway(r'name = "a\u0007"'), 2, "gateway.name", "printable"),
    "number as name": (gateway("name = 4"), 2, "gateway.name", 'write a text in "quotes", not 4'),
    "bad admin": (gateway('admin = "unix:"'), 2, "gateway.admin", "bad Unix socket path"),
    "admin at a port": (
        gateway('admin = "127.0.0.1:9465"'),
        2,
        "gateway.admin",
        "write admin_token_file too",
    ),
    "no admin token": (
        gateway('admin_token_file = "nowhere"'),
        2,
        "gateway.admin_token_file",
        "No such file",
    ),
    "no header can hold it": (
        gateway('admin_token_file = "{W}"'),
        2,
        "gateway.admin_token_file",
        "printable ASCII without blanks",
    ),
    "admin_hosts": (gateway('admin_hosts = "gw"'), 2, "gateway.admin_hosts", "write a list"),
    "admin_mode": (gateway('admin_mode = "rw"'), 2, "gateway.admin_mode", "three octal digits"),
    "admin_mode as number": (gateway("admin_mode = 660"), 2, "gateway.admin_mode", "write a text"),
    "admin_group": (gateway('admin_group = ""'), 2, "gateway.admin_group", "it is empty"),
    "metrics": (gateway('metrics = "here"'), 2, "gateway.metrics", ADDRESS),
    "metrics on a socket": (gateway('metrics = "/run/x"'), 2, "gateway.metrics", "HOST:PORT"),
    "metrics off loopback": (
        gateway('metrics = "0.0.0.0:9464"'),
        2,
        "gateway.metrics",
        "metrics_token_file",
    ),
    "no token file": (
        gateway('metrics_token_file = "nowhere"'),
        2,
        "gateway.metrics_token_file",
        "No such file",
    ),
    "metrics_hosts": (gateway('metrics_hosts = "gw"'), 2, "gateway.metrics_hosts", "list"),
    "metrics_open": (gateway('metrics_open = "yes"'), 2, "gateway.metrics_open", "true or false"),
    "state": (gateway('state = "mysql://x"'), 2, "gateway.state", "write sqlite:////PATH"),
    "password": (
        gateway('state = "postgresql://u:hunter2@h/d"'),
        2,
        "gateway.state",
        "a password does not belong here",
    ),
    "password in the query": (
        gateway('state = "postgresql://h/d?password=hunter2"'),
        2,
        "gateway.state",
        "a password does not belong here",
    ),
    "control character in the state": (
        gateway('state = "sqlite:////var/lib/a%00b"'),
        2,
        "gateway.state",
        "no file or database has a control character",
    ),
    "state in memory": (gateway('state = "sqlite://"'), 2, "gateway.state", "name a file"),
    "audit_days": (gateway("audit_days = 0"), 2, "gateway.audit_days", "greater than 0"),
    "audit_rows": (gateway("audit_rows = -1"), 2, "gateway.audit_rows", "at least 0"),
    "placement": (gateway('placement = "raft"'), 2, "gateway.placement", 'write "static"'),
    "postgres and no PostgreSQL": (
        gateway('placement = "postgres"\nclient_token_secret_file = "{S}"'),
        2,
        "gateway.placement",
        'write state = "postgresql://HOST/DB"',
    ),
    "postgres and SQLite": (
        gateway(
            'state = "sqlite:////var/lib/x/s.db"\nplacement = "postgres"\n'
            'client_token_secret_file = "{S}"'
        ),
        2,
        "gateway.state",
        'write state = "postgresql://HOST/DB"',
    ),
    "postgres without a secret": (
        gateway('state = "postgresql://h/d"\nplacement = "postgres"'),
        1,
        "gateway.client_token_secret_file",
        "gateways that share a fleet need the same secret",
    ),
    "postgres and members": (
        gateway(
            'state = "postgresql://h/d"\nplacement = "postgres"\nplacement_members = 1\n'
            'client_token_secret_file = "{S}"'
        ),
        4,
        "gateway.placement_members",
        'it is for placement = "static"',
    ),
    "lease without postgres": (
        gateway("lease_seconds = 5"),
        2,
        "gateway.lease_seconds",
        'it is for placement = "postgres"',
    ),
    "lease_seconds": (gateway("lease_seconds = 0.5"), 2, "gateway.lease_seconds", "at least 1"),
    "shards": (gateway("shards = 100"), 2, "gateway.shards", "write a power of two"),
    "ordinal": (
        gateway("placement_ordinal = 1\nplacement_members = 1"),
        2,
        "gateway.placement_ordinal",
        "the ordinals are 0 to 0",
    ),
    "no ordinal": (
        gateway('name = "gw"\nplacement_members = 3\nclient_token_secret_file = "{S}"'),
        3,
        "gateway.placement_members",
        "write placement_ordinal",
    ),
    "no shared secret": (
        gateway('name = "gw-1"\nplacement_members = 3'),
        1,
        "gateway.client_token_secret_file",
        "gateways that share a fleet need the same secret",
    ),
    "short secret": (
        gateway('client_token_secret_file = "{T4}"'),
        2,
        "gateway.client_token_secret_file",
        "openssl rand -hex 32",
    ),
    "no secret": (
        gateway('client_token_secret_file = "nowhere"'),
        2,
        "gateway.client_token_secret_file",
        "No such file",
    ),
    "door to all": (
        gateway('door = "0.0.0.0:1080"'),
        2,
        "gateway.door",
        "write door_users_file too",
    ),
    "no users": (
        gateway('door = "0.0.0.0:1080"\ndoor_users_file = "nowhere"'),
        3,
        "gateway.door_users_file",
        "cannot read nowhere",
    ),
    "wrong users": (
        gateway('door = "127.0.0.1:1080"\ndoor_users_file = "{T}"'),
        3,
        "gateway.door_users_file",
        "{T}: line 1: write NAME:HASH",
    ),
    "workers": (gateway("workers = 0"), 2, "gateway.workers", "at least 1"),
    "connect_rate": (gateway("connect_rate = 0"), 2, "gateway.connect_rate", "greater than 0"),
    "infinite": (gateway("connect_rate = inf"), 2, "gateway.connect_rate", "finite"),
    "rate as text": (gateway('connect_rate = "10"'), 2, "gateway.connect_rate", "without quotes"),
    "concurrency": (
        gateway("connect_concurrency = 100"),
        2,
        "gateway.connect_concurrency",
        "at most 64",
    ),
    "half a thread": (
        gateway("connect_concurrency = 1.5"),
        2,
        "gateway.connect_concurrency",
        "a whole number",
    ),
    "drain_seconds": (gateway("drain_seconds = -1"), 2, "gateway.drain_seconds", "at least 0"),
    "a list": (gateway("drain_seconds = [1]"), 2, "gateway.drain_seconds", "not a list"),
    "door": (gateway('door = "x:y"'), 2, "gateway.door", ADDRESS),
    "environment": (gateway('name = "${{HOSTNAME}}"'), 2, "gateway.name", "is not expanded"),
}

TUNNEL: dict[str, Row] = {
    "no name": (WHOLE.replace('name = "a"\n', ""), 1, "tunnel[1].name", "it is missing"),
    "no mode": (WHOLE.replace('mode = "destination"\n', ""), 1, "tunnel[a].mode", "it is missing"),
    "mode": (
        WHOLE.replace('"destination"', '"destnation"'),
        3,
        "tunnel[a].mode",
        "did you mean destination?",
    ),
    "no endpoint": (REGION, 1, "tunnel[a].endpoint", "no service is given"),
    "both": (tunnel('endpoint = "wss://h"'), 4, "tunnel[a].region", "keep one of the two"),
    "region": (WHOLE.replace("eu-west-1", "Irland"), 4, "tunnel[a].region", "such as eu-central-1"),
    "endpoint": (REGION + 'endpoint = "http://h"\n', 6, "tunnel[a].endpoint", "neither wss nor ws"),
    "no token": (
        WHOLE.replace('access_token_file = "{T}"\n', ""),
        1,
        "tunnel[a].access_token_file",
        "no access token is given",
    ),
    "two tokens": (
        tunnel('access_token_env = "TOKEN"'),
        7,
        "tunnel[a].access_token_env",
        "access_token_file is given too",
    ),
    "no such file": (
        WHOLE.replace("{T}", "nowhere"),
        5,
        "tunnel[a].access_token_file",
        "No such file",
    ),
    "empty file": (WHOLE.replace("{T}", "{E}"), 5, "tunnel[a].access_token_file", "is empty"),
    "a folder": (WHOLE.replace("{T}", "."), 5, "tunnel[a].access_token_file", "cannot read"),
    "two words": (WHOLE.replace("{T}", "{W}"), 5, "tunnel[a].access_token_file", "has a space"),
    "not set": (
        WHOLE.replace('file = "{T}"', 'env = "NOT_SET_HERE"'),
        5,
        "tunnel[a].access_token_env",
        "the environment has no NOT_SET_HERE",
    ),
    "dollar": (
        WHOLE.replace('file = "{T}"', 'env = "$TOKEN"'),
        5,
        "tunnel[a].access_token_env",
        "without $ and braces",
    ),
    "expanded": (
        WHOLE.replace('_file = "{T}"', ' = "${{TOKEN}}"'),
        5,
        "tunnel[a].access_token",
        "access_token_env",
    ),
    "client_token": (tunnel('client_token = "x"'), 7, "tunnel[a].client_token", "32 to 128"),
    "no services": (HEAD, 1, "tunnel[a].services", "it is missing"),
    "empty services": (HEAD + "services = {{}}\n", 6, "tunnel[a].services", "it is empty"),
    "a long service id": (
        HEAD + f"services = {{{{ {'S' * 129} = 22 }}}}\n",
        6,
        "tunnel[a].services",
        "SSS...' has 129 characters; write at most 128",
    ),
    "services as text": (HEAD + 'services = "22"\n', 6, "tunnel[a].services", "write a table"),
    "address": (
        WHOLE.replace(":22", ":ssh"),
        6,
        "tunnel[a].services.SSH",
        ADDRESS,
    ),
    "address of a later service": (
        HEAD + '[tunnel.services]\nSSH = 22\nHTTP = "h"\n',
        8,
        "tunnel[a].services.HTTP",
        ADDRESS,
    ),
    "port 0": (WHOLE.replace(":22", ":0"), 6, "tunnel[a].services.SSH", "write the port"),
    "door of a destination": (
        WHOLE.replace("127.0.0.1:22", "door"),
        6,
        "tunnel[a].services.SSH",
        "a destination connects",
    ),
    "service without a name": (
        HEAD + 'services = {{ "" = 22, SSH = 23 }}\n',
        6,
        "tunnel[a].services",
        "name every service",
    ),
    "label as number": (tunnel("labels = {{ site = 4 }}"), 7, "tunnel[a].labels.site", "a text"),
    "label's name": (
        tunnel('labels = {{ "the site" = "x" }}'),
        7,
        "tunnel[a].labels.the site",
        "another name",
    ),
    "version": (tunnel("version = 3"), 7, "tunnel[a].version", 'write "V1", "V2" or "V3"'),
    "bandwidth": (tunnel('bandwidth = "100k"'), 7, "tunnel[a].bandwidth", "write a number"),
    "pacing": (tunnel("pacing = 1"), 7, "tunnel[a].pacing", "write true or false, not 1"),
    "marks": (tunnel("marks = 1"), 7, "tunnel[a].marks", "write true or false, not 1"),
    "http_proxy": (
        tunnel('http_proxy = "socks5://u:hunter2@h:1"'),
        7,
        "tunnel[a].http_proxy",
        "write http://[USER:PASSWORD@]HOST:PORT",
    ),
    "bind": (tunnel('bind = ""'), 7, "tunnel[a].bind", "it is empty"),
    "no ca": (tunnel('ca = "nowhere"'), 7, "tunnel[a].ca", "cannot read"),
    "no certificate": (tunnel('ca = "{T}"'), 7, "tunnel[a].ca", "holds no certificate"),
    "unknown limit": (
        tunnel("limits = {{ max_conections = 4 }}"),
        7,
        "tunnel[a].limits.max_conections",
        "did you mean max_connections?",
    ),
    "limit": (
        tunnel("limits = {{ max_connections = 0 }}"),
        7,
        "tunnel[a].limits.max_connections",
        "greater than 0",
    ),
    "payload": (
        tunnel("limits = {{ data_payload_bytes = 70000 }}"),
        7,
        "tunnel[a].limits",
        "at most 64512",
    ),
    "restart": (
        tunnel("restart = {{ min_seconds = 9, max_seconds = 3 }}"),
        7,
        "tunnel[a].restart",
        "min_seconds <= max_seconds",
    ),
    "restart as number": (tunnel("restart = 4"), 7, "tunnel[a].restart", "write a table"),
    "misspelt": (
        tunnel('acces_token = "x"'),
        7,
        "tunnel[a].acces_token",
        "did you mean access_tok",
    ),
    "name twice": (WHOLE + WHOLE, 8, "tunnel[a].name", "is taken by {F}:2"),
    "token twice": (
        WHOLE + WHOLE.replace('"a"', '"b"'),
        11,
        "tunnel[b].access_token_file",
        "'a' ({F}:5) has the same access token",
    ),
    "port twice": (
        SOURCE.replace(":0", ":5555")
        + SOURCE.replace(":0", ":5555").replace('"a"', '"b"').replace("{T}", "{T2}"),
        12,
        "tunnel[b].services.SSH",
        "127.0.0.1:5555 is taken by tunnel 'a' ({F}:6)",
    ),
    "port for two services": (
        SOURCE.replace('SSH = "127.0.0.1:0"', "SSH = 5555, WEB = 5555"),
        6,
        "tunnel[a].services.WEB",
        "127.0.0.1:5555 is taken by another service ({F}:6)",
    ),
    "port of all addresses": (
        SOURCE.replace(":0", ":5555")
        + SOURCE.replace("127.0.0.1:0", "0.0.0.0:5555")
        .replace('"a"', '"b"')
        .replace("{T}", "{T2}"),
        12,
        "tunnel[b].services.SSH",
        "0.0.0.0:5555 is taken by tunnel 'a' ({F}:6)",
    ),
    "name in defaults": ('[defaults]\nname = "x"\n', 2, "defaults.name", "there is no such key"),
    "wrong default": ("[defaults]\nmarks = 3\n", 2, "defaults.marks", "true or false"),
    "default limit": (
        "[defaults.limits]\nping = 3\n",
        2,
        "defaults.limits.ping",
        "there is no such key",
    ),
    "rule's key": ("[[door_rule]]\nuser = 'a'\n", 2, "door_rule[1].user", "did you mean users?"),
    "rule's users": ("[[door_rule]]\nusers = 'a'\n", 2, "door_rule[1].users", "write a list"),
    "rule for nobody": ("[[door_rule]]\nusers = []\n", 2, "door_rule[1].users", "it is empty"),
    "rule's tunnels": ("[[door_rule]]\ntunnels = 4\n", 2, "door_rule[1].tunnels", "write a text"),
    "rule's services": (
        "[[door_rule]]\nservices = [4]\n",
        2,
        "door_rule[1].services[1]",
        "write a text",
    ),
}

NOTIFY_HEAD = """[[notify]]
broker = "mqtt://127.0.0.1:1883"
things = ["press-4", "oven"]
services = {{ SSH = "{{thing}}.lan:22" }}
"""
"""Four lines; the next is the fifth."""


def notify(line: str, *, of: str = "mqtt:") -> str:
    """A whole section and one more line, the fifth."""
    return f"{NOTIFY_HEAD.replace('mqtt:', of)}{line}\n"


def section_with(before: str, after: str) -> str:
    """A section with something else in it."""
    return NOTIFY_HEAD.replace(before, after)


NOTIFY: dict[str, Row] = {
    "no broker": (
        section_with('broker = "mqtt://127.0.0.1:1883"\n', ""),
        1,
        "notify[1].broker",
        "it is missing",
    ),
    "another scheme": (
        section_with("mqtt://", "tcp://"),
        2,
        "notify[1].broker",
        "write mqtts://HOST[:PORT]",
    ),
    "password in the URL": (
        section_with("mqtt://", "mqtt://u:hidden@"),
        2,
        "notify[1].broker",
        "write username and password_file",
    ),
    "port of text": (section_with(":1883", ":x"), 2, "notify[1].broker", "write mqtts://"),
    "no things": (section_with('["press-4", "oven"]', "[]"), 3, "notify[1].things", "it is empty"),
    "wildcard": (
        section_with('"oven"', '"+"'),
        3,
        "notify[1].things[2]",
        "no wildcards",
    ),
    "nothing allowed": (
        section_with('{{ SSH = "{{thing}}.lan:22" }}', "{{}}"),
        4,
        "notify[1].services",
        "name at least one",
    ),
    "another placeholder": (
        section_with("{{thing}}", "{{name}}"),
        4,
        "notify[1].services.SSH",
        "{{name}} stands for nothing",
    ),
    "open brace": (
        section_with("{{thing}}", "{{thing"),
        4,
        "notify[1].services.SSH",
        "a brace is not closed",
    ),
    "thing without a number": (
        section_with("{{thing}}.lan", "10.0.0.{{n}}"),
        4,
        "notify[1].services.SSH",
        "'oven' has no number for {{n}}",
    ),
    "no address": (
        section_with("{{thing}}.lan:22", "10.0.0.{{n}}:22").replace("oven", "press-300"),
        4,
        "notify[1].services.SSH",
        "for 'press-300' it is 10.0.0.300, which is no IPv4 address",
    ),
    "port 0 of a device": (
        section_with(".lan:22", ".lan:0"),
        4,
        "notify[1].services.SSH",
        "port 0 cannot be connected to",
    ),
    "unknown key of a section": (
        notify('thing = "x"'),
        5,
        "notify[1].thing",
        "did you mean things?",
    ),
    "certificate without TLS": (
        notify('cert_file = "{T}"'),
        5,
        "notify[1].cert_file",
        "mqtt:// has no TLS",
    ),
    "certificate alone": (
        notify('cert_file = "{T}"', of="mqtts:"),
        5,
        "notify[1].cert_file",
        "go together",
    ),
    "no certificate and key": (
        notify('cert_file = "{T2}"\nkey_file = "{T}"', of="mqtts:"),
        5,
        "notify[1].cert_file",
        "no certificate and its key",
    ),
    "no authorities": (
        notify('ca = "{T}"', of="mqtts:"),
        5,
        "notify[1].ca",
        "no certificate to trust",
    ),
    "authorities that are not there": (
        notify('ca = "nowhere.pem"', of="mqtts:"),
        5,
        "notify[1].ca",
        "No such file",
    ),
    "password of nobody": (
        notify('password_file = "{T}"'),
        5,
        "notify[1].password_file",
        "write username too",
    ),
    "no password": (
        notify('username = "gw"\npassword_file = "nowhere"'),
        6,
        "notify[1].password_file",
        "No such file",
    ),
    "long client id": (
        notify(f'client_id = "{"x" * 121}"'),
        5,
        "notify[1].client_id",
        "1 to 120 printable",
    ),
    "reserved client id": (
        notify('client_id = "$x"'),
        5,
        "notify[1].client_id",
        "does not begin with $",
    ),
    "endpoint_ca": (
        notify('endpoint_ca = "nowhere"'),
        5,
        "notify[1].endpoint_ca",
        "cannot read",
    ),
    "no tunnels": (
        notify("tunnels_per_thing = 0"),
        5,
        "notify[1].tunnels_per_thing",
        "at least 1",
    ),
    "no subscriptions": (
        notify("subscriptions_per_connection = 0"),
        5,
        "notify[1].subscriptions_per_connection",
        "at least 1",
    ),
    "limit of devices": (notify("limits.ping = 3"), 5, "notify[1].limits.ping", "no such key"),
    "a thing twice": (
        NOTIFY_HEAD + NOTIFY_HEAD,
        7,
        "notify[2].things",
        "'press-4' is in {F}:1 too",
    ),
    "a session twice": (
        notify('client_id = "a"')
        + notify('client_id = "a"\nusername = "u"').replace("press-4", "p").replace("oven", "o"),
        7,
        "notify[2].broker",
        "{F}:1 has the same broker and another user",
    ),
    "devices of a shared fleet": (
        "[gateway]\nplacement_members = 2\nplacement_ordinal = 0\n"
        'client_token_secret_file = "{S}"\n' + NOTIFY_HEAD,
        5,
        "notify[1]",
        "a gateway that shares none",
    ),
    "devices of a fleet in a database": (
        '[gateway]\nstate = "postgresql://h/d"\nplacement = "postgres"\n'
        'client_token_secret_file = "{S}"\n' + NOTIFY_HEAD,
        5,
        "notify[1]",
        "a gateway that shares none",
    ),
    "single brackets of devices": ("[notify]\n", 1, "notify", "write [[notify]]"),
}

WRONG_FILES = {**SYNTAX, **TOP, **GATEWAY, **TUNNEL, **NOTIFY}
