// The status page of a gateway. It follows status/events and shows what it says; it gives no commands.
"use strict";

const STATES = ["refused", "unknown", "quarantined", "backoff", "connecting", "draining", "stopped", "connected"];
const TROUBLE = new Set(["refused", "unknown", "quarantined", "backoff"]);
const SILENT_MS = 15000; // The gateway says something every 5 s; without it the page is out of date.

const byId = (id) => document.getElementById(id);
const pairs = (found) => Object.entries(found).map(([key, value]) => `${key}=${value}`).join("  ");
const age = (since) => {
  const seconds = Math.max(0, Date.now() / 1000 - since - view.clockAhead);
  if (seconds < 90) return `${Math.floor(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
};
const bytes = (count) => {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
};

// A column: key of the row, title, class, how a value is shown, how rows are compared by it.
const text = (value) => value;
const number = (value) => (value ? String(value) : "");
const LISTS = {
  tunnels: {
    key: (row) => row.name,
    columns: [
      ["name", "Name", "name", text],
      ["state", "State", "state", text],
      ["reason", "Reason", "reason", text],
      ["since", "Since", "number", age],
      ["mode", "Mode", "mode", text],
      ["services", "Services", "services", pairs],
      ["labels", "Labels", "labels", pairs],
      ["connections", "Open", "number", number],
      ["sent_bytes", "Sent", "number", bytes],
      ["received_bytes", "Received", "number", bytes],
      ["reconnects", "Reconnects", "number", number],
      ["gateway", "Gateway", "gateway", text],
    ],
    nothing: "No tunnel is like that.",
    empty: "This gateway has no tunnels. Add one to its files, or with: tunnelfleet add FILE",
  },
  connections: {
    key: (row) => `${row.tunnel}/${row.service_id}/${row.stream_id}/${row.connection_id}`,
    columns: [
      ["tunnel", "Tunnel", "name", text],
      ["service_id", "Service", "service", text],
      ["peer", "From", "peer", (value) => value || ""],
      ["user", "User", "user", (value) => value || ""],
      ["since", "Since", "number", age],
      ["sent_bytes", "Sent", "number", bytes],
      ["received_bytes", "Received", "number", bytes],
    ],
    nothing: "No connection is like that.",
    empty: "Nobody is connected through this gateway.",
  },
  gateways: {
    key: (row) => row.name,
    columns: [
      ["name", "Gateway", "name", text],
      ["state", "State", "state", text],
      ["tunnels", "Tunnels", "number", number],
      ["connected", "Connected", "number", number],
      ["shards", "Shards", "number", number],
      ["address", "Address", "address", (value) => value || ""],
      ["trouble", "Reason", "reason", text],
    ],
    nothing: "No gateway is like that.",
    empty: "This gateway shares its fleet with no other.",
  },
};

const view = {
  tab: "tunnels", state: "", search: "", clockAhead: 0, heardAt: 0, gateway: null,
  sort: { tunnels: ["state", 1], connections: ["since", -1], gateways: ["name", 1] },
  rows: { tunnels: new Map(), connections: new Map(), gateways: new Map() },
  cells: { tunnels: new Map(), connections: new Map(), gateways: new Map() },
};

const compare = (list, key, direction) => {
  const rank = (row) => {
    const value = row[key];
    if (key === "state") return STATES.indexOf(value);
    return typeof value === "object" && value !== null ? pairs(value) : value ?? "";
  };
  const name = LISTS[list].columns[0][0];
  const names = new Intl.Collator("en", { numeric: true });
  return (a, b) => {
    const [x, y] = [rank(a), rank(b)];
    const order = typeof x === "string" ? names.compare(x, y) : x - y;
    return order * direction || names.compare(a[name], b[name]);
  };
};

function haystack(row) {
  return Object.values(row).map((value) => (typeof value === "object" && value !== null ? pairs(value) : value)).join(" ").toLowerCase();
}

function isShown(list, row) {
  if (list === "tunnels" && view.state && row.state !== view.state) return false;
  return view.search.split(" ").every((word) => haystack(row).includes(word));
}

function makeRow(list) {
  const line = document.createElement("tr");
  for (const [, title, kind] of LISTS[list].columns) {
    const cell = document.createElement("td");
    cell.className = kind;
    if (kind === "number" || kind === "mode" || kind === "user" || kind === "peer") cell.dataset.label = title;
    line.append(cell);
  }
  return line;
}

function fill(list, line, row) {
  LISTS[list].columns.forEach(([key, , kind, show], index) => {
    const cell = line.children[index];
    const shown = show(row[key]);
    if (cell.textContent !== shown) cell.textContent = shown;
    if (kind === "state") cell.dataset.value = row[key];
  });
}

function draw(list = view.tab) {
  const table = byId(list).querySelector("tbody");
  const [key, direction] = view.sort[list];
  const rows = [...view.rows[list].values()].filter((row) => isShown(list, row)).sort(compare(list, key, direction));
  const cells = view.cells[list];
  const wanted = rows.map((row) => {
    const id = LISTS[list].key(row);
    let line = cells.get(id);
    if (!line) cells.set(id, line = makeRow(list));
    fill(list, line, row);
    return line;
  });
  const shown = new Set(wanted);
  for (const line of [...table.children]) if (!shown.has(line)) line.remove();
  // A row that is where it belongs is not touched, so that a selection in it stays.
  wanted.forEach((line, index) => { if (table.children[index] !== line) table.insertBefore(line, table.children[index] || null); });
  for (const id of cells.keys()) if (!view.rows[list].has(id)) cells.delete(id);
  const nothing = byId(list).querySelector(".nothing");
  nothing.hidden = rows.length > 0 || !view.gateway;
  nothing.textContent = view.rows[list].size ? LISTS[list].nothing : LISTS[list].empty;
  if (list === view.tab) {
    const all = view.rows[list].size;
    byId("count").textContent = rows.length === all ? `${all}` : `${rows.length} of ${all}`;
  }
  for (const head of byId(list).querySelectorAll("th")) {
    if (head.dataset.key === key) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
}

function drawGateway() {
  const gateway = view.gateway;
  document.title = `${gateway.name} · tunnelfleet`;
  byId("name").textContent = gateway.name;
  byId("about").textContent = `tunnelfleet ${gateway.version}, up for ${age(gateway.started)}`;
  const counts = {};
  for (const row of view.rows.tunnels.values()) counts[row.state] = (counts[row.state] || 0) + 1;
  const bar = byId("states");
  const wanted = ["", ...STATES.filter((state) => counts[state] || state === view.state)];
  while (bar.children.length > wanted.length) bar.lastChild.remove();
  wanted.forEach((state, index) => {
    let button = bar.children[index];
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.append(document.createElement("b"), " ", document.createElement("span"));
      bar.append(button);
    }
    button.dataset.state = state;
    button.setAttribute("aria-pressed", String(view.state === state));
    button.children[0].textContent = String(state ? counts[state] || 0 : view.rows.tunnels.size);
    button.children[1].textContent = state || "all";
    button.className = state === "connected" ? "good" : TROUBLE.has(state) ? "bad" : "";
  });
  byId("tab-connections").textContent = `Connections (${gateway.connections})`;
  // Where nobody shares the fleet there is nothing to say of gateways.
  const isShared = view.rows.gateways.size > 0;
  byId("tab-gateways").hidden = !isShared;
  byId("tab-gateways").textContent = `Gateways (${view.rows.gateways.size})`;
  byId("tunnels").dataset.shared = String(isShared);
  const alerts = byId("alerts");
  alerts.hidden = gateway.alerts.length === 0;
  alerts.replaceChildren(...gateway.alerts.map((alert) => {
    const line = document.createElement("p");
    // What stands between backticks is a command.
    line.append(...alert.split("`").map((part, index) => {
      const piece = document.createElement(index % 2 ? "code" : "span");
      piece.textContent = part;
      return piece;
    }));
    return line;
  }));
}

function setLive(state, said) {
  const live = byId("live");
  if (live.dataset.state === state && live.textContent === said) return;
  live.dataset.state = state;
  live.textContent = said;
}

function take(news) {
  view.gateway = news.gateway;
  view.clockAhead = Date.now() / 1000 - news.gateway.time;
  view.heardAt = Date.now();
  for (const list of Object.keys(LISTS)) {
    const rows = view.rows[list];
    if (news.whole) rows.clear();
    const fields = news.fields[list];
    for (const values of news[list]) {
      const row = Object.fromEntries(fields.map((field, index) => [field, values[index]]));
      rows.set(LISTS[list].key(row), row);
    }
    for (const name of news.gone[list]) rows.delete(name);
  }
  setLive("live", "live");
  drawGateway();
  draw();
}

function sortBy(list, key) {
  const [present, direction] = view.sort[list];
  view.sort[list] = [key, present === key ? -direction : 1];
  byId("sort").value = key;
  draw(list);
}

function show(tab) {
  view.tab = tab;
  for (const each of Object.keys(LISTS)) {
    byId(each).hidden = each !== tab;
    const button = byId(`tab-${each}`);
    button.setAttribute("aria-selected", String(each === tab));
    button.tabIndex = each === tab ? 0 : -1;
  }
  byId("states").hidden = tab !== "tunnels";
  byId("sort").replaceChildren(...LISTS[tab].columns.map(([key, title]) => new Option(title, key)));
  byId("sort").value = view.sort[tab][0];
  draw();
}

function prepare() {
  for (const [list, { columns }] of Object.entries(LISTS)) {
    const head = byId(list).querySelector("thead tr");
    for (const [key, title, kind] of columns) {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      cell.dataset.key = key;
      cell.scope = "col";
      if (kind === "number" || kind === "gateway") cell.className = kind;
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", () => sortBy(list, key));
      cell.append(button);
      head.append(cell);
    }
    const tab = byId(`tab-${list}`);
    tab.addEventListener("click", () => show(list));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const tabs = Object.keys(LISTS).filter((each) => !byId(`tab-${each}`).hidden);
      const step = event.key === "ArrowRight" ? 1 : tabs.length - 1;
      const other = tabs[(tabs.indexOf(list) + step) % tabs.length];
      show(other);
      byId(`tab-${other}`).focus();
    });
  }
  byId("states").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    view.state = view.state === button.dataset.state ? "" : button.dataset.state;
    if (view.gateway) drawGateway();
    draw();
  });
  byId("search").addEventListener("input", (event) => { view.search = event.target.value.trim().toLowerCase(); draw(); });
  byId("sort").addEventListener("change", (event) => sortBy(view.tab, event.target.value));
  show("tunnels");
}

function follow() {
  const source = new EventSource("status/events");
  source.addEventListener("status", (event) => take(JSON.parse(event.data)));
  source.addEventListener("stale", (event) => setLive("lost", JSON.parse(event.data).reason));
  source.addEventListener("quiet", () => { view.heardAt = Date.now(); if (view.gateway) { setLive("live", "live"); drawGateway(); draw(); } });
  source.addEventListener("error", () => {
    setLive("lost", view.gateway ? `not live: the gateway was last heard ${age(view.heardAt / 1000 - view.clockAhead)} ago` : "the gateway does not answer");
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  });
}

setInterval(() => {
  if (view.heardAt && Date.now() - view.heardAt > SILENT_MS) setLive("lost", `not live: the gateway was last heard ${age(view.heardAt / 1000 - view.clockAhead)} ago`);
}, 1000);

prepare();
follow();
