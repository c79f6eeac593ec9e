// The weight viewer: everything a diff or a listing holds, to be looked at. Text from files goes into the page as text.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const isDiff = data.format === "llmc-diff";
const rows = data.rows;
const byName = new Map(rows.map((row) => [row.name, row]));
const $ = (id) => document.getElementById(id);

const METRICS = isDiff ? {
  relative_change: "the norm of the change as a share of the base's norm",
  delta_norm: "the Frobenius norm of the change",
  max_abs: "the largest change of a single number",
  spectral_norm: "the largest singular value of the change: the most it can stretch an input",
  effective_rank: "exp of the entropy of the change's singular values: over how many directions it is spread",
  stable_rank: "the squared Frobenius norm over the squared spectral norm",
  signal_rank: "how many singular values of the change are above what rounding explains",
  units_90: "the fewest units (tokens, heads, neurons, rows) that hold 90 % of the squared change",
  changed: "how many numbers differ",
  rounding_floor: "the relative change that rounding alone makes",
  intruders: "how many of the first 10 left singular vectors of tuned the base has none like",
} : {
  bytes: "bytes in the file",
  numbers: "how many numbers there are",
  norm: "the Frobenius norm",
  std: "the standard deviation of the numbers",
  maximum: "the largest number",
  minimum: "the smallest number",
  spectral_norm: "the largest singular value",
  effective_rank: "exp of the entropy of the singular values: over how many directions the matrix is spread",
  stable_rank: "the squared Frobenius norm over the squared spectral norm",
};
const ALWAYS = ["relative_change", "delta_norm", "max_abs", "spectral_norm", "effective_rank", "stable_rank",
                "signal_rank"];
const metrics = Object.keys(METRICS).filter((key) => isDiff && ALWAYS.includes(key)
  || rows.some((row) => row[key] !== null && row[key] !== undefined));
const MARKS = {missing: "−", extra: "+", incomparable: "≠"};
const ROW = 27, SHOWN = 120; // pixels of a row of the table; rows of it in the document

const state = {metric: metrics[0], role: "", search: "", key: metrics[0], down: true, selected: null, listed: []};

// --- elements and numbers -------------------------------------------------------------------------------------------
function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function svg(kind, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function brief(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size === 0) return "0";
  const prefix = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, most]) => size >= 9.9995 * most);
  if (prefix && size < 1e16) return `${Number((value / prefix[1]).toPrecision(3))}${prefix[0]}`;
  if (size >= 9999.5 || size < 0.00095) return value.toExponential(0).replace("+", "");
  return size >= 99.5 ? value.toFixed(0) : size >= 9.95 ? value.toFixed(1) : size >= 0.095 ? value.toFixed(2)
    : value.toFixed(3);
}
function exact(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? value.toLocaleString("en") : value.toExponential(4);
  const size = Math.abs(value);
  return size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(5))) : value.toExponential(4);
}
const shapeOf = (row) => row.shape || row.base_shape || row.tuned_shape || [];
function shapeText(row) {
  if (!isDiff || !row.base_shape || !row.tuned_shape || String(row.base_shape) === String(row.tuned_shape))
    return shapeOf(row).join(" × ");
  return `${row.base_shape.join(" × ")} → ${row.tuned_shape.join(" × ")}`;
}
const value = (row, key) => row[key] === undefined ? null : row[key];

// --- colours --------------------------------------------------------------------------------------------------------
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const LIGHT_COLOURS = ["#f3f6fc", "#cbdaf4", "#94b5ea", "#5b8adb", "#2f5fb8", "#1c3f86", "#10244f"];
const DARK_COLOURS = ["#1d2533", "#21365f", "#2b5097", "#3f74cf", "#6fa0ee", "#a9c9fb", "#e8f1ff"];
function blend(share) {
  const colours = dark.matches ? DARK_COLOURS : LIGHT_COLOURS;
  const at = Math.min(Math.max(share, 0), 1) * (colours.length - 1), first = Math.min(Math.floor(at), colours.length - 2);
  const parts = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const [low, high] = [parts(colours[first]), parts(colours[first + 1])];
  return low.map((each, i) => Math.round(each + (high[i] - each) * (at - first)));
}
function paint(cell, share) {
  const colour = blend(share), bright = (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255;
  cell.style.background = `rgb(${colour})`;
  cell.style.color = bright > 0.55 ? "#1f2430" : "#ffffff";
}
// Where values stand between 0 and 1: by their logarithm, where they span more than a decade.
function scaleOf(values) {
  const sizes = values.filter((each) => each !== null).map(Math.abs), positive = sizes.filter((each) => each > 0);
  const most = Math.max(0, ...chunked(sizes, Math.max)), least = Math.min(most, ...chunked(positive, Math.min));
  const logarithmic = least > 0 && most / least > 10, low = Math.max(least, most / 1e6);
  const place = (each) => {
    const size = Math.abs(each);
    if (!most || !size) return 0;
    return logarithmic ? 0.06 + 0.94 * Math.max(0, Math.log(size / low) / Math.log(most / low)) : size / most;
  };
  const ticks = [];
  if (logarithmic) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(most) + 1e-9);
    const step = Math.max(1, Math.ceil((last - first) / 4));
    for (let decade = first; decade <= last; decade += step) ticks.push(10 ** decade);
    for (const end of [low, most])
      if (ticks.every((tick) => Math.abs(place(tick) - place(end)) > 0.12)) ticks.push(end);
  } else if (most) {
    ticks.push(0, most / 2, most);
  }
  return {place, ticks, logarithmic};
}
function chunked(values, fold) { // a spread of hundreds of thousands of arguments is too much for some browsers
  const found = [];
  for (let i = 0; i < values.length; i += 10000) found.push(fold(...values.slice(i, i + 10000)));
  return found;
}

// --- the map --------------------------------------------------------------------------------------------------------
function leaf(row) {
  const last = row.name.replace(/\[\d+:\d+\]$/, "").split(".").pop();
  return last === "weight" || last === row.part ? "" : `.${last}`;
}
function breakable(name) { // a long name may go on in the next line behind a dot or an underscore
  return name.split(/(?<=[._])/).flatMap((piece) => [piece, element("wbr")]);
}
function drawMap() {
  const scale = scaleOf(rows.map((row) => value(row, state.metric)));
  const inside = rows.filter((row) => row.layer !== null), outside = rows.filter((row) => row.layer === null);
  const columns = [], cells = new Map(), layers = new Set();
  for (const row of inside) {
    const column = row.part + leaf(row), piece = row.name.match(/\[\d+:\d+\]$/);
    const key = piece ? column + piece[0] : column;
    if (!cells.has(key)) { cells.set(key, new Map()); columns.push(key); }
    cells.get(key).set(row.layer, row);
    layers.add(row.layer);
  }
  const weights = columns.filter((key) => !key.endsWith(".bias"));
  const ordered = weights.concat(columns.filter((key) => key.endsWith(".bias")));
  const table = element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, "layer"),
    ...ordered.map((key) => element("th", {title: key}, ...breakable(key))))));
  const body = element("tbody");
  for (const layer of [...layers].sort((a, b) => a - b)) {
    const line = element("tr", {}, element("th", {}, String(layer)));
    for (const key of ordered) {
      const row = cells.get(key).get(layer);
      line.append(row ? mapCell(row, scale) : element("td", {class: "none"}));
    }
    body.append(line);
  }
  table.append(body);
  const beside = element("table", {class: "outside"}, element("thead", {}, element("tr", {},
    element("th", {colspan: 2}, "outside the blocks"))));
  const list = element("tbody");
  for (const row of outside) list.append(element("tr", {}, mapCell(row, scale), element("th", {}, row.name)));
  beside.append(list);
  $("map").replaceChildren(...(inside.length ? [table] : []), ...(outside.length ? [beside] : []));
  drawLegend(scale);
  markSelected();
}
function mapCell(row, scale) {
  const shown = value(row, state.metric), cell = element("td", {"data-name": row.name});
  cell.title = `${row.name}\n${state.metric}: ${exact(shown) || "none"}${row.status ? `\n${row.status}` : ""}`;
  if (shown !== null) {
    cell.textContent = brief(shown);
    paint(cell, scale.place(shown));
  } else {
    cell.textContent = row.nonfinite ? "×" : MARKS[row.status] || "";
    cell.className = MARKS[row.status] || row.nonfinite ? "odd" : "none";
  }
  return cell;
}
function drawLegend(scale) {
  const bar = element("div", {class: "bar"});
  bar.style.background = `linear-gradient(90deg, ${[...Array(17).keys()].map((i) => `rgb(${blend(i / 16)})`).join(", ")})`;
  for (const tick of scale.ticks) {
    const mark = element("span", {}, brief(tick));
    mark.style.left = `${100 * scale.place(tick)}%`;
    bar.append(mark);
  }
  const keys = isDiff ? " − missing · + in tuned alone · ≠ not comparable · × not finite" : "";
  $("legend").replaceChildren(bar, element("span", {class: "words"},
    `${state.metric}: ${METRICS[state.metric]}${scale.logarithmic ? " (logarithmic colours)" : ""}.${keys}`));
}

// --- the table ------------------------------------------------------------------------------------------------------
function columnsShown() {
  const others = metrics.filter((key) => key !== state.metric);
  return ["name", state.metric, ...(isDiff ? ["status"] : ["dtype"]), "role", isDiff ? "base_shape" : "shape", ...others];
}
const natural = new Intl.Collator("en", {numeric: true}).compare;
function list() {
  const text = state.search.toLowerCase(), key = state.key, way = state.down ? -1 : 1;
  state.listed = rows.filter((row) => (!state.role || row.role === state.role)
    && (!text || row.name.toLowerCase().includes(text) || (row.tuned_name || "").toLowerCase().includes(text)));
  const size = (row) => Array.isArray(row[key]) ? row[key].reduce((a, b) => a * b, 1) : row[key];
  state.listed.sort((a, b) => {
    const [x, y] = [size(a), size(b)], none = (each) => each === null || each === undefined;
    if (none(x) || none(y)) return none(x) - none(y);
    return way * (typeof x === "string" ? natural(x, y) : x - y) || natural(a.name, b.name);
  });
  drawHead();
  $("tensors").scrollTop = 0;
  drawRows();
  $("count").textContent = `${state.listed.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} tensors`;
}
function drawHead() {
  $("head").replaceChildren(...columnsShown().map((key) => {
    const label = key === "base_shape" ? "shape" : key;
    const sorted = key === state.key ? (state.down ? "descending" : "ascending") : "none";
    return element("th", {"data-key": key, "aria-sort": sorted, scope: "col"}, label);
  }));
}
function drawRows() {
  const view = $("tensors"), first = Math.max(0, Math.floor(view.scrollTop / ROW) - 30);
  const last = Math.min(state.listed.length, first + SHOWN);
  const pad = (count) => {
    const line = element("tr", {class: "pad", "aria-hidden": "true"}, element("td"));
    line.firstChild.style.height = `${count * ROW}px`;
    return line;
  };
  const keys = columnsShown(), drawn = [];
  if (first) drawn.push(pad(first));
  for (const row of state.listed.slice(first, last)) {
    const line = element("tr", {"data-name": row.name});
    if (row === state.selected) line.className = "selected";
    for (const key of keys) {
      const cell = element("td");
      cell.textContent = key === "name" ? row.name : key.endsWith("shape") ? shapeText(row) : exact(value(row, key));
      if (key === "name") cell.title = row.name;
      if (key === "status") cell.className = `status ${row.status}`;
      else if (typeof row[key] === "number") cell.className = "number";
      line.append(cell);
    }
    drawn.push(line);
  }
  if (last < state.listed.length) drawn.push(pad(state.listed.length - last));
  $("body").replaceChildren(...drawn);
}
function show(row) { // scroll the table so that a row is seen
  const at = state.listed.indexOf(row), view = $("tensors");
  if (at >= 0 && (at * ROW < view.scrollTop || (at + 2) * ROW > view.scrollTop + view.clientHeight))
    view.scrollTop = Math.max(0, at * ROW - view.clientHeight / 2);
  drawRows();
}

// --- the selected tensor --------------------------------------------------------------------------------------------
function select(row, setAddress = true) {
  state.selected = row;
  if (setAddress) history.replaceState(null, "", `#${encodeURIComponent(row.name)}`);
  show(row);
  markSelected();
  drawDetail(row);
}
function markSelected() {
  for (const cell of document.querySelectorAll("#map .selected")) cell.classList.remove("selected");
  if (!state.selected) return;
  const cell = document.querySelector(`#map [data-name="${CSS.escape(state.selected.name)}"]`);
  if (cell) cell.classList.add("selected");
}
const APART = ["singular_values", "energy", "moved", "slices", "permutation"]; // drawn, or shown below
function drawDetail(row) {
  const lines = element("table", {class: "plain"});
  for (const [key, each] of Object.entries(row)) {
    if (APART.includes(key) && each !== null && String(each) !== "") continue;
    const text = Array.isArray(each) ? `[${each.map(exact).join(", ")}]` : each === null ? "none" : exact(each);
    lines.append(element("tr", {class: each === null ? "quiet" : ""}, element("th", {}, key), element("td", {}, text)));
  }
  $("detail-name").textContent = row.name;
  $("save-row").hidden = false;
  $("detail-body").replaceChildren(...spectrumOf(row), ...energyOf(row), ...movedOf(row), ...slicesOf(row),
    ...permutationOf(row), element("h3", {}, "all of its row"), lines);
}
function plot(width, height, ...children) {
  return svg("svg", {viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img"}, ...children);
}
function label(x, y, text, anchor = "start", kind = "") {
  const made = svg("text", {x, y, "text-anchor": anchor, class: kind});
  made.textContent = text;
  return made;
}
function spectrumOf(row) {
  const sigma = (row.singular_values || []).filter((each) => each > 0);
  if (!sigma.length) return [];
  const limit = signalLimit(row, sigma[0]), low = Math.max(Math.min(...sigma, limit || Infinity), sigma[0] * 1e-9);
  const top = Math.log10(sigma[0] * 1.2), bottom = Math.log10(low / 1.5);
  const x = (i) => 48 + (sigma.length > 1 ? i / (sigma.length - 1) : 0) * 300;
  const y = (each) => 12 + (top - Math.log10(Math.max(each, low / 1.5))) / (top - bottom) * 130;
  const drawn = [];
  for (let decade = Math.ceil(bottom); decade <= Math.floor(top); decade += Math.max(1, Math.round((top - bottom) / 5)))
    drawn.push(svg("line", {x1: 48, x2: 348, y1: y(10 ** decade), y2: y(10 ** decade), class: "grid"}),
      label(42, y(10 ** decade) + 4, brief(10 ** decade), "end"));
  drawn.push(svg("polyline", {points: sigma.map((each, i) => `${x(i)},${y(each)}`).join(" "), class: "line"}));
  sigma.forEach((each, i) => drawn.push(svg("circle", {cx: x(i), cy: y(each), r: 2.2, class: "dot"})));
  if (limit) drawn.push(svg("line", {x1: 48, x2: 348, y1: y(limit), y2: y(limit), class: "limit"}),
    label(348, y(limit) - 4, "below: rounding", "end", "limit"));
  drawn.push(label(48, 158, "1"), label(348, 158, String(sigma.length), "end"));
  return [element("h3", {}, `spectrum (${row.spectrum_method || "exact"}): the first ${sigma.length} singular values`),
    plot(360, 164, ...drawn)];
}
function signalLimit(row, first) { // the line that signal_rank draws
  if (!isDiff) return null;
  const shape = shapeOf(row), floor = (row.rounding_floor || 0) * (row.base_norm || 0) / Math.sqrt(row.numbers);
  return Math.max(1e-6 * first, 1.5 * floor * (Math.sqrt(shape[0]) + Math.sqrt(shape[1])));
}
function energyOf(row) {
  if (!row.energy) return [];
  const ranks = [1, 2, 4, 8, 16, 32, 64], drawn = [];
  row.energy.forEach((share, i) => {
    const x = 52 + i * 43, height = Math.max(1, share * 80);
    drawn.push(svg("rect", {x, y: 96 - height, width: 30, height, class: "column"}),
      label(x + 15, 92 - height, `${(100 * share).toFixed(share > 0.9995 ? 0 : 1)}`, "middle"),
      label(x + 15, 110, String(ranks[i]), "middle"));
  });
  drawn.push(label(42, 110, "rank", "end"), label(42, 92, "%", "end"));
  return [element("h3", {}, "share of the squared change that the best approximation of a rank holds"),
    plot(360, 116, ...drawn)];
}
function movedOf(row) {
  if (!row.moved || !row.moved.length) return [];
  const most = row.moved[0].share, table = element("table", {class: "bars"});
  for (const unit of row.moved) {
    const bar = element("div");
    bar.style.width = `${100 * unit.share / most}%`;
    const title = `change ${exact(unit.change)}, relative ${exact(unit.relative_change)}, base norm ${exact(unit.base_norm)}`;
    table.append(element("tr", {title}, element("th", {}, `${unit.slice ? `${unit.slice} ` : ""}${unit.index}`),
      element("td", {class: "token"}, unit.text === null ? "" : JSON.stringify(unit.text)),
      element("td", {class: "bar"}, bar), element("td", {class: "number"}, `${(100 * unit.share).toPrecision(3)} %`)));
  }
  return [element("h3", {}, `${row.unit}s that moved most (share of the squared change); ${exact(row.units_90)} of `
    + `${exact(row.units)} hold 90 %`), table];
}
function slicesOf(row) {
  if (!row.slices) return [];
  const names = Object.keys(row.slices), keys = Object.keys(row.slices[names[0]]);
  return [element("h3", {}, "slices"), element("div", {class: "wide"}, tableOf(["slice", ...keys],
    names.map((name) => [name, ...keys.map((key) => row.slices[name][key])])))];
}
function permutationOf(row) {
  if (!row.permutation) return [];
  const shown = row.permutation.slice(0, 64).join(", ");
  return [element("h3", {}, `permutation: ${row.unit} i of tuned is ${row.unit} permutation[i] of base`),
    element("p", {class: "code"}, row.permutation.length > 64 ? `${shown}, …` : shown)];
}
function tableOf(heads, lines) {
  return element("table", {class: "plain"}, element("thead", {}, element("tr", {}, ...heads.map((each) =>
    element("th", {}, each)))), element("tbody", {}, ...lines.map((line) => element("tr", {}, ...line.map((each) =>
    element("td", {class: typeof each === "number" ? "number" : ""}, exact(each)))))));
}

// --- totals ---------------------------------------------------------------------------------------------------------
function drawAggregates() {
  const groups = isDiff ? [["by layer", data.by_layer], ["by role", data.by_role], ["by part", data.by_part]]
    : [["totals", data.totals]];
  $("aggregates").replaceChildren(...groups.filter(([, entries]) => entries.length).map(([title, entries]) => {
    const keys = Object.keys(entries[0]);
    const table = tableOf(keys, entries.map((entry) => keys.map((key) => entry[key] === null && key === "layer"
      ? "outside" : entry[key])));
    if (keys.includes("share")) [...table.tBodies[0].rows].forEach((line, i) => {
      const cell = line.cells[keys.indexOf("share")], bar = element("div", {class: "share"});
      bar.style.width = `${100 * entries[i].share}%`;
      cell.textContent = `${(100 * entries[i].share).toFixed(1)} %`;
      cell.prepend(bar);
    });
    return element("section", {}, element("h3", {}, title), element("div", {class: "wide"}, table));
  }));
}

// --- files ----------------------------------------------------------------------------------------------------------
const NOT_IN_CSV = ["moved", "permutation", "slices", "singular_values", "energy", "intruder_cosines"];
const WHOLE = ["layer", "numbers", "changed", "nonfinite", "rank_90", "rank_95", "rank_99", "signal_rank", "intruders",
               "units", "units_90", "bytes", "zeros"];
function written(each) { // a float as the .csv of `save` has it
  const size = Math.abs(each);
  if (size && (size >= 1e16 || size < 1e-4)) return each.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  return Number.isInteger(each) ? `${each}.0` : String(each);
}
function field(key, each) {
  const text = each === null || each === undefined ? "" : Array.isArray(each) ? JSON.stringify(each)
    : typeof each === "number" && !WHOLE.includes(key) ? written(each) : String(each);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
function save(name, kind, text) {
  const address = URL.createObjectURL(new Blob([text], {type: kind}));
  const link = element("a", {href: address, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// --- what a reader does ---------------------------------------------------------------------------------------------
function openAddress() {
  let name = location.hash.slice(1);
  try { name = decodeURIComponent(name); } catch { return; }
  const row = byName.get(name) || rows.find((each) => each.tuned_name === name);
  if (row) select(row, false);
}
function step(by) {
  const at = state.listed.indexOf(state.selected);
  const next = state.listed[Math.min(Math.max(at + by, 0), state.listed.length - 1)];
  if (next) select(next);
}
$("metric").append(...metrics.map((key) => element("option", {value: key}, key)));
$("role").append(element("option", {value: ""}, "all roles"), ...[...new Set(rows.map((row) => row.role))].map((role) =>
  element("option", {value: role}, role)));
$("metric").addEventListener("change", (event) => {
  Object.assign(state, {metric: event.target.value, key: event.target.value, down: true});
  drawMap();
  list();
});
$("role").addEventListener("change", (event) => { state.role = event.target.value; list(); });
$("search").addEventListener("input", (event) => { state.search = event.target.value; list(); });
$("head").addEventListener("click", (event) => {
  const key = event.target.closest("th")?.dataset.key;
  if (!key) return;
  const texts = rows.some((row) => typeof row[key] === "string");
  Object.assign(state, {down: key === state.key ? !state.down : !texts, key});
  list();
});
$("tensors").addEventListener("scroll", () => requestAnimationFrame(drawRows));
for (const id of ["map", "body"]) $(id).addEventListener("click", (event) => {
  const name = event.target.closest("[data-name]")?.dataset.name;
  if (name !== undefined) select(byName.get(name));
});
$("tensors").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  event.preventDefault();
  step(event.key === "ArrowDown" ? 1 : -1);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  event.preventDefault();
  $("search").focus();
});
$("save-table").addEventListener("click", () => {
  const keys = Object.keys(rows[0] || {}).filter((key) => !NOT_IN_CSV.includes(key));
  const lines = [keys, ...state.listed.map((row) => keys.map((key) => field(key, row[key])))];
  save("tensors.csv", "text/csv", lines.map((line) => `${line.join(",")}\n`).join(""));
});
$("save-row").addEventListener("click", () => {
  if (state.selected) save("tensor.json", "application/json", JSON.stringify(state.selected, null, 2) + "\n");
});
window.addEventListener("hashchange", openAddress);
dark.addEventListener("change", () => drawMap());
drawMap();
list();
drawAggregates();
openAddress();
