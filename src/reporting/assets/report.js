// Draws what report.py wrote into the page as JSON, and sorts its tables. All text goes in as text, never as HTML.
"use strict";
const COLOURS = 8;
const COSTS = {
  size_bytes: "file",
  size_gzip_bytes: "gzipped",
  size_packed_bytes: "packed (fast), weights alone",
  latency_ms_p50: "latency p50",
};
const MARGIN_OF_NAMES = 190;
const NAMED_POINTS = 8; // a chart of more points names them on hover alone
const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;
const points = (share) => `${share < 0 ? "" : "+"}${(100 * share).toFixed(2)}`;
const short = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

function bytes(count, digits = 3) {
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (count >= factor) return `${Number((count / factor).toPrecision(digits))} ${unit}`;
  return `${count} B`;
}

const amount = (cost, value, digits = 3) => (cost === "latency_ms_p50" ? `${Number(value.toPrecision(digits))} ms` : bytes(value, digits));

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A figure that is drawn anew whenever its width changes.
function figure(caption, draw) {
  const box = element("div");
  const made = element("figure", { className: "plot" }, element("figcaption", {}, caption), box);
  let drawn = 0;
  const again = () => {
    const width = Math.floor(box.clientWidth);
    if (width < 40 || width === drawn) return;
    drawn = width;
    box.replaceChildren(draw(width));
  };
  new ResizeObserver(() => requestAnimationFrame(again)).observe(box);
  return made;
}

// One colour for each variant, whatever its target; one symbol for each target.
function scales(view) {
  const variants = [...new Set(view.items.map((item) => item.variant))];
  const targets = [...new Set(view.items.map((item) => item.target))];
  return {
    variants,
    targets,
    colour: (variant) => `var(--c${variants.indexOf(variant) % COLOURS})`,
    symbol: (target) => d3.symbolsFill[targets.indexOf(target) % d3.symbolsFill.length],
  };
}

function legend(view, scale) {
  const list = element("ul", { className: "legend" });
  for (const variant of scale.variants) {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = scale.colour(variant);
    list.append(element("li", {}, swatch, variant));
  }
  if (scale.targets.length > 1)
    for (const target of scale.targets) {
      const svg = d3.create("svg").attr("width", 14).attr("height", 14);
      svg.append("path").attr("transform", "translate(7,7)").attr("fill", "currentColor")
        .attr("d", d3.symbol(scale.symbol(target), 70)());
      list.append(element("li", {}, svg.node(), target));
    }
  return list;
}

function front(view, scale, cost) {
  const known = view.items.filter((item) => item[cost] !== null);
  if (!known.length) return null;
  const line = view.fronts[cost].map((at) => view.items[at]);
  const [least, most] = d3.extent(known, (item) => item[cost]);
  const wide = most > 6 * least && least > 0;
  const place = { x: cost, y: (item) => 100 * item.accuracy };
  const title = (item) => `${item.name}\n${amount(cost, item[cost])}\n${percent(item.accuracy)}`;
  return figure(`Accuracy against ${COSTS[cost]}`, (width) =>
    Plot.plot({
      width,
      height: Math.min(320, Math.max(240, width * 0.7)),
      marginLeft: 52,
      marginRight: 24,
      marginTop: 28,
      marginBottom: 40,
      x: {
        type: wide ? "log" : "linear",
        nice: !wide,
        domain: wide ? [least / 1.25, most * 1.25] : most > least ? undefined : [0, 2 * most || 1],
        ticks: wide ? Math.max(2, Math.round(width / 130)) : Math.max(2, Math.round(width / 110)),
        tickFormat: (value) => amount(cost, value, most - least < most / 10 ? 4 : 3),
        label: COSTS[cost],
        labelAnchor: "center",
      },
      y: { grid: true, nice: true, inset: 6, label: "accuracy, %" },
      marks: [
        Plot.line(line, { ...place, curve: "step-after", stroke: "var(--faint)", strokeDasharray: "4 3" }),
        Plot.dot(known, {
          ...place,
          fill: (item) => scale.colour(item.variant),
          stroke: "var(--ground)",
          symbol: { value: (item) => scale.symbol(item.target), scale: null },
          r: 6,
          ariaLabel: (item) => item.name,
        }),
        ...named(known, place, cost, wide ? Math.log : Number, width - 76),
        Plot.tip(known, Plot.pointer({ ...place, title, maxRadius: 60 })),
      ],
    }),
  );
}

// The names of few points, each on the side where there is room, and below its point if another name is above it.
function named(known, place, cost, scaled, width) {
  if (known.length > NAMED_POINTS) return [];
  const [least, most] = d3.extent(known, (item) => scaled(item[cost]));
  const [low, high] = d3.extent(known, (item) => item.accuracy);
  const taken = [];
  const groups = d3.group(d3.sort(known, (item) => item[cost]), (item) => {
    const right = scaled(item[cost]) > (least + most) / 2;
    const at = most > least ? (width * (scaled(item[cost]) - least)) / (most - least) : 0;
    const long = 6.5 * short(item.variant, 22).length;
    const box = { begin: right ? at - long : at, end: right ? at : at + long, level: (180 * (item.accuracy - low)) / (high - low || 1) };
    const meets = taken.some((other) => Math.abs(other.level - box.level) < 12 && other.begin < box.end && box.begin < other.end);
    if (!meets) taken.push(box);
    return `${right ? "end" : "start"} ${meets ? 14 : -12}`;
  });
  return Array.from(groups, ([side, items]) => {
    const [textAnchor, dy] = side.split(" ");
    const shown = { ...place, text: (item) => short(item.variant, 22), fill: "currentColor", stroke: "var(--ground)" };
    return Plot.text(items, { ...shown, textAnchor, dx: textAnchor === "end" ? 3 : -3, dy: Number(dy) });
  });
}

function bars(view, scale, key, caption, text) {
  const known = view.items.filter((item) => item[key] !== null);
  if (!known.length) return null;
  const names = known.map((item) => item.name);
  return figure(caption, (width) => {
    const margin = Math.min(MARGIN_OF_NAMES, width * 0.42, 16 + 6.6 * d3.max(names, (name) => name.length));
    return Plot.plot({
      width,
      height: 30 + 24 * known.length,
      marginLeft: margin,
      marginRight: 66,
      marginTop: 6,
      marginBottom: 22,
      x: { axis: null, domain: [0, d3.max(known, (item) => item[key]) || 1] },
      y: { domain: names, label: null, tickSize: 0, tickFormat: (name) => short(name, Math.floor((margin - 10) / 6)) },
      marks: [
        Plot.barX(known, { x: key, y: "name", fill: (item) => scale.colour(item.variant), insetTop: 2, insetBottom: 2 }),
        Plot.text(known, { x: key, y: "name", text: (item) => text(item[key]), textAnchor: "start", dx: 5 }),
        Plot.tip(known, Plot.pointerY({ x: key, y: "name", title: (item) => `${item.name}\n${text(item[key])}` })),
      ],
    });
  });
}

function whiskers(view, scale) {
  const known = view.items.flatMap((item, at) => {
    const interval = view.changes[at]?.interval;
    return interval ? [{ ...item, ...interval }] : [];
  });
  if (!known.length) return null;
  const names = known.map((item) => item.name);
  const title = (d) =>
    `${d.name}\n${points(d.change)} points (${points(d.low)} to ${points(d.high)})\n${d.lost} of ${d.images} images lost, ${d.won} won`;
  return figure("Change of accuracy in points, with its 95 % interval (paired on the test images)", (width) => {
    const margin = Math.min(MARGIN_OF_NAMES, width * 0.42, 16 + 6.6 * d3.max(names, (name) => name.length));
    return Plot.plot({
      width,
      height: 56 + 26 * known.length,
      marginLeft: margin,
      marginBottom: 34,
      x: { grid: true, label: "points", nice: true, ticks: Math.max(3, Math.round(width / 90)) },
      y: { domain: names, label: null, tickSize: 0, tickFormat: (name) => short(name, Math.floor((margin - 10) / 6)) },
      marks: [
        Plot.ruleX([0], { stroke: "currentColor" }),
        Plot.ruleY(known, { x1: (d) => 100 * d.low, x2: (d) => 100 * d.high, y: "name", strokeWidth: 3, stroke: (d) => scale.colour(d.variant) }),
        Plot.dot(known, { x: (d) => 100 * d.change, y: "name", r: 5, fill: (d) => scale.colour(d.variant), stroke: "var(--ground)" }),
        Plot.tip(known, Plot.pointerY({ x: (d) => 100 * d.change, y: "name", title })),
      ],
    });
  });
}

function classes(change) {
  const known = change.classes.filter((each) => each.change !== 0).sort((a, b) => a.change - b.change);
  if (!known.length) return element("p", {}, "No class has another accuracy.");
  const shown = known.length <= 20 ? known : [...known.slice(0, 10), ...known.slice(-10)];
  return figure(known.length <= 20 ? "Accuracy of each class, change in points" : "The 10 classes that lose and win most, in points", (width) => {
    const names = shown.map((each) => each.class);
    const margin = Math.min(130, width * 0.35, 20 + 7 * d3.max(names, (name) => name.length));
    const reach = 100 * d3.max(shown, (each) => Math.abs(each.change)) * 1.25;
    return Plot.plot({
      width,
      height: 50 + 20 * shown.length,
      marginLeft: margin,
      marginBottom: 32,
      x: { domain: [-reach, reach], label: "points", grid: true, ticks: 5 },
      y: { domain: names, label: null, tickSize: 0, tickFormat: (name) => short(name, Math.floor((margin - 8) / 6.5)) },
      marks: [
        Plot.barX(shown, { x: (d) => 100 * d.change, y: "class", fill: (d) => (d.change < 0 ? "var(--less)" : "var(--more)"), insetTop: 2, insetBottom: 2 }),
        Plot.ruleX([0], { stroke: "currentColor" }),
        Plot.tip(shown, Plot.pointerY({ x: (d) => 100 * d.change, y: "class", title: (d) => `${d.class}\n${points(d.change)} points` })),
      ],
    });
  });
}

function confusion(view, change) {
  const cells = change.confusion.flatMap((row, label) => row.map((count, taken) => ({ label, taken, count })));
  const name = (at) => short(view.classes[at], 10);
  const most = d3.max(cells, (cell) => Math.abs(cell.count)) || 1;
  const fill = (cell) => {
    if (!cell.count) return "var(--zero)";
    const better = cell.label === cell.taken ? cell.count > 0 : cell.count < 0;
    return `color-mix(in srgb, var(${better ? "--more" : "--less"}) ${20 + (45 * Math.abs(cell.count)) / most}%, var(--ground))`;
  };
  return figure("Confusion matrix, images more or fewer than the baseline (blue: better, orange: worse)", (width) => {
    const margin = Math.min(90, 26 + 6.5 * d3.max(view.classes, (each) => Math.min(10, each.length)));
    const side = Math.min(width, 460);
    return Plot.plot({
      width: side,
      height: side,
      marginLeft: margin,
      marginBottom: margin,
      padding: 0.06,
      x: { domain: d3.range(view.classes.length), label: "taken for", tickFormat: name, tickSize: 0, tickRotate: margin > 50 ? -50 : 0 },
      y: { domain: d3.range(view.classes.length), label: "is", tickFormat: name, tickSize: 0 },
      marks: [
        Plot.cell(cells, { x: "taken", y: "label", fill, rx: 2 }),
        Plot.text(cells.filter((cell) => cell.count), { x: "taken", y: "label", text: (cell) => (cell.count > 0 ? `+${cell.count}` : cell.count), fontSize: view.classes.length > 12 ? 8 : 11 }),
        Plot.tip(cells, Plot.pointer({ x: "taken", y: "label", title: (cell) => `${view.classes[cell.label]} taken for ${view.classes[cell.taken]}\n${cell.count > 0 ? "+" : ""}${cell.count} images` })),
      ],
    });
  });
}

function flipped(view, change) {
  const box = element("div", { className: "images" });
  for (const each of change.flipped) {
    const lost = each.before === each.label;
    const [label, before, after] = [each.label, each.before, each.after].map((at) => view.classes[at]);
    const says = lost ? `${label}, now ${after}` : `${before}, now ${label}`;
    const image = element("img", { src: view.images[each.image], alt: `test image ${each.image}: ${says}`, title: `test image ${each.image}` });
    box.append(element("figure", { className: lost ? "lost" : "won" }, image, element("figcaption", {}, says)));
  }
  return box;
}

function changed(view, at) {
  const change = view.changes[at];
  if (!change) return [element("p", { className: "faint" }, "This row has no baseline that it could be compared with.")];
  const parts = [];
  if (change.interval)
    parts.push(element("p", {}, `${change.lost} of ${change.interval.images} test images are lost against ${change.baseline}, ${change.won} are won.`));
  const grid = element("div", { className: "grid" });
  if (change.classes.length) grid.append(classes(change));
  if (change.confusion) grid.append(confusion(view, change));
  parts.push(grid);
  if (change.flipped?.length) {
    const all = change.lost + change.won;
    const some = change.flipped.length < all ? ` (${change.flipped.length} of ${all})` : "";
    parts.push(element("p", {}, element("b", {}, `Images that flipped${some}`), " orange: lost, blue: won"), flipped(view, change));
  }
  return parts;
}

function weights(pair) {
  const width = 190;
  const height = 34;
  const reach = d3.max(pair.filter(Boolean), (each) => d3.max(each.at, Math.abs)) || 1;
  const svg = d3.create("svg").attr("width", width).attr("height", 2 * height + 4).attr("role", "img");
  const x = d3.scaleLinear([-reach, reach], [1, width - 1]);
  pair.forEach((each, row) => {
    if (!each || !each.counts.length) return;
    const y = d3.scaleSqrt([0, d3.max(each.counts)], [0, height - 2]);
    const group = svg.append("g").attr("transform", `translate(0,${row * (height + 4) + height})`);
    const step = (each.at[each.at.length - 1] - each.at[0]) / each.counts.length;
    const left = (at) => (each.values ? x(each.at[at]) - 0.75 : x(each.at[0] + at * step));
    const wide = each.values ? 1.5 : Math.max(1, x(step) - x(0) - 0.5);
    group.selectAll("rect").data(each.counts).join("rect")
      .attr("x", (_, at) => left(at)).attr("width", wide).attr("y", (count) => -y(count)).attr("height", (count) => y(count))
      .attr("fill", row ? "var(--c2)" : "var(--faint)");
    group.append("line").attr("x1", 0).attr("x2", width).attr("stroke", "var(--line)");
  });
  svg.append("title").text("weights that are not zero: above before, below after; heights by the square root of counts");
  return svg.node();
}

function layers(view, at) {
  const found = view.layers[at];
  if (!found.length) return [element("p", { className: "faint" }, "The stages of this row are not here, so its layers are not known.")];
  const heads = ["weight", "shape", "sparsity", "bits", "distinct values", "channels removed", "bytes before", "bytes after", "weights before (above) and after"];
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))));
  const body = table.appendChild(element("tbody"));
  const pair = (change, text) => {
    const [before, after] = [change.before, change.after].map((layer) => (layer ? text(layer) : "-"));
    return before === after ? after : `${before} → ${after}`;
  };
  for (const change of found) {
    const bytesOf = (layer) => (layer ? bytes(layer.size_bytes) : "-");
    const cells = [
      change.name,
      pair(change, (layer) => layer.shape.join("×")),
      pair(change, (layer) => percent(layer.sparsity, 1)),
      pair(change, (layer) => `${layer.bits}`),
      pair(change, (layer) => layer.distinct.toLocaleString("en")),
      change.removed === null ? "-" : `${change.removed}`,
      bytesOf(change.before),
      bytesOf(change.after),
    ];
    const row = element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
    row.append(element("td", { className: "weights" }, change.weights.some(Boolean) ? weights(change.weights) : "-"));
    body.append(row);
  }
  return [
    element("div", { className: "scroll" }, table),
    element("p", { className: "faint" }, "Bytes are weights times bits, as the stage stores them. Drawn are weights that are not zero; of few distinct values each is a line. A quantized stage shows the floats that it rounds."),
  ];
}

function curve(view, key, caption, label, factor) {
  const known = view.curves.flatMap((each, at) => each.points.filter((point) => point[key] !== null).map((point) => ({ ...point, name: each.name, colour: `var(--c${at % COLOURS})` })));
  if (!known.length) return null;
  const place = { x: "epoch", y: (point) => factor * point[key] };
  const longest = d3.max(known, (point) => point.epoch);
  return figure(caption, (width) =>
    Plot.plot({
      width,
      height: 260,
      marginLeft: 50,
      x: { label: "epoch", ticks: d3.ticks(1, longest, Math.round(width / 60)).filter(Number.isInteger), tickFormat: "d", domain: [1, Math.max(2, longest)] },
      y: { grid: true, nice: true, label },
      marks: [
        Plot.line(known, { ...place, z: "name", stroke: "colour" }),
        Plot.dot(known, { ...place, r: longest > 30 ? 1.5 : 3, fill: "colour" }),
        Plot.tip(known, Plot.pointer({ ...place, title: (point) => `${point.name}\nepoch ${point.epoch}: ${Number((factor * point[key]).toPrecision(4))}` })),
      ],
      color: { type: "identity" },
    }),
  );
}

function curveLegend(view) {
  const list = element("ul", { className: "legend" });
  view.curves.forEach((each, at) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `var(--c${at % COLOURS})`;
    list.append(element("li", {}, swatch, each.name));
  });
  return list;
}

function sensitivity(analysis, kind) {
  const known = analysis.points.filter((point) => point.kind === kind);
  if (!known.length) return null;
  const names = [...new Set(known.map((point) => point.layer))];
  const words = { sparsity: "sparsity", bits: "bits", clusters: "shared values" };
  const place = { x: "at", y: (point) => 100 * point.accuracy };
  const colour = (point) => `var(--c${names.indexOf(point.layer) % COLOURS})`;
  return figure(`One layer alone changed: ${words[kind]}`, (width) =>
    Plot.plot({
      width,
      height: 260,
      marginLeft: 50,
      x: { label: words[kind], type: kind === "clusters" ? "log" : "linear", ticks: Math.min(6, Math.round(width / 70)), tickFormat: kind === "sparsity" ? undefined : "d" },
      y: { grid: true, nice: true, label: "validation accuracy, %" },
      color: { type: "identity" },
      marks: [
        Plot.line(known, { ...place, z: "layer", stroke: colour, sort: "at" }),
        Plot.dot(known, { ...place, fill: colour, r: 3 }),
        Plot.tip(known, Plot.pointer({ ...place, title: (point) => `${point.layer}\n${words[kind]} ${point.at}: ${percent(point.accuracy)}` })),
      ],
    }),
  );
}

function searched(search, cost) {
  const known = search.points.filter((point) => point.values[cost] !== undefined);
  if (!known.length) return null;
  const place = { x: (point) => point.values[cost], y: (point) => 100 * point.values.accuracy_validation };
  const line = known.filter((point) => point.front).sort((a, b) => a.values[cost] - b.values[cost]);
  const size = cost.endsWith("_bytes");
  const text = (value) => (size ? bytes(value) : `${Number(value.toPrecision(4))}`);
  const title = (point) => `trial ${point.number}${point.number === search.chosen ? ", chosen" : ""}\n${text(point.values[cost])}, ${percent(point.values.accuracy_validation)}${point.within ? "" : ", misses the budget"}\n${point.text}`;
  return figure(`Validation accuracy against ${cost} (dashed: the front; grey: the budget is missed; ringed: chosen)`, (width) =>
    Plot.plot({
      width,
      height: 320,
      marginLeft: 52,
      marginRight: 24,
      marginBottom: 40,
      x: { nice: true, ticks: Math.round(width / 110), tickFormat: text, label: cost, labelAnchor: "center" },
      y: { grid: true, nice: true, label: "validation accuracy, %" },
      marks: [
        Plot.line(line, { ...place, stroke: "var(--faint)", strokeDasharray: "4 3", curve: search.objectives.length === 1 ? "step-after" : "linear" }),
        Plot.dot(known, { ...place, r: 4.5, fill: (point) => (point.within ? "var(--c2)" : "var(--faint)"), ariaLabel: (point) => `trial ${point.number}` }),
        Plot.dot(known.filter((point) => point.number === search.chosen), { ...place, r: 9, stroke: "var(--c1)", strokeWidth: 2 }),
        Plot.tip(known, Plot.pointer({ ...place, title, maxRadius: 60, lineWidth: 28 })),
      ],
    }),
  );
}

function choose(view, label, draw) {
  const select = element("select");
  view.items.forEach((item, at) => select.append(element("option", { value: at }, item.name)));
  const box = element("div");
  const show = () => box.replaceChildren(...draw(view, Number(select.value)));
  select.value = String(Math.max(0, view.items.findIndex((_, at) => view.changes[at])));
  select.addEventListener("change", show);
  show();
  return [element("label", { className: "choice" }, label, select), box];
}

function fill(section, name, ...children) {
  const place = section.querySelector(`[data-place="${name}"]`);
  const found = children.flat().filter(Boolean);
  if (place) found.length ? place.replaceChildren(...found) : place.closest("div.part").remove();
}

function drawSection(section, view) {
  const scale = scales(view);
  section.querySelectorAll(".swatch[data-variant]").forEach((swatch) => {
    swatch.style.background = scale.colour(view.items[Number(swatch.dataset.variant)].variant);
  });
  fill(section, "legend", legend(view, scale));
  fill(section, "fronts", Object.keys(COSTS).map((cost) => front(view, scale, cost)));
  fill(
    section,
    "bars",
    bars(view, scale, "size_bytes", "Bytes of the file", (count) => bytes(count)),
    bars(view, scale, "accuracy", "Accuracy on the test images", (share) => percent(share)),
    bars(view, scale, "latency_ms_p50", "Latency of one image, p50", (value) => amount("latency_ms_p50", value)),
  );
  fill(section, "intervals", whiskers(view, scale));
  if (view.changes.some(Boolean)) fill(section, "changes", choose(view, "Row", changed));
  else fill(section, "changes");
  if (view.layers.some((each) => each.length)) fill(section, "layers", choose(view, "Row", layers));
  else fill(section, "layers");
  const drawn = [
    curve(view, "accuracy", "Accuracy on validation data, %", "accuracy, %", 100),
    curve(view, "loss", "Training loss", "loss", 1),
  ].filter(Boolean);
  fill(section, "curves", drawn.length ? [curveLegend(view), element("div", { className: "grid" }, ...drawn)] : []);
  const analyses = view.sensitivity.flatMap((each) => ["sparsity", "bits", "clusters"].map((kind) => sensitivity(each, kind)));
  fill(section, "sensitivity", analyses);
}

function sortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = head.querySelector("button");
    button?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        return down ? compare(y, x) : compare(x, y);
      });
      body.append(...rows);
    });
  });
}

const views = JSON.parse(document.getElementById("views").textContent);
document.querySelectorAll("section[data-section]").forEach((section) => drawSection(section, views[Number(section.dataset.section)]));
const searches = JSON.parse(document.getElementById("searches").textContent);
document.querySelectorAll("section[data-search]").forEach((section) => {
  const search = searches[Number(section.dataset.search)];
  fill(section, "trials", search.objectives.map((cost) => searched(search, cost)));
});
document.querySelectorAll("table.sortable").forEach(sortable);
document.documentElement.dataset.drawn = "yes";
