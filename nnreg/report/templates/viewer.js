"use strict";
// Draws the slices of one pair or case at a time. Every layer is a strip of tiles below each other, decoded when the pair is opened.
(() => {
  const about = JSON.parse(document.getElementById("about").textContent);
  const stored = document.querySelectorAll("script.pictures");
  const byId = (id) => document.getElementById(id);
  const FIXED_LINE = "#3ad1ff", OTHER_LINE = "#ffb000", FOLD = [0, 255, 64];
  const PALETTE = ["#e6194b", "#ffe119", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#008080", "#9a6324", "#fabebe"];
  const RIGHT = "#2ca02c", EXTRA = "#d62728", MISSED = "#1f77b4";
  const EDGE_SHARE = 0.12; // of the pixels are edges, where there are no labels
  const state = { item: 0, mode: null, planes: [], second: true, timer: null, ticket: 0 };

  const MODES = {
    curtain: { title: "Curtain", needs: ["fixed"], draw: drawCurtain, controls: ["curtain", "before", "outlines"], legend: () => `Left of the line the fixed image, right of it the ${otherName()}.` },
    flicker: { title: "Flicker", needs: ["fixed"], draw: drawFlicker, controls: ["flicker", "before", "outlines"], legend: () => `Shown now: the ${state.second ? otherName() : "fixed image"}. What jumps is not aligned.` },
    checkerboard: { title: "Checkerboard", needs: ["fixed"], draw: drawCheckerboard, controls: ["checkerboard", "before"], legend: () => `Fields of the fixed image and of the ${otherName()} in turn; edges should run on across the fields.` },
    overlay: { title: "Colours", needs: ["fixed"], draw: drawOverlay, controls: ["before", "outlines"], legend: () => `<span class="swatch" style="background:#f0f"></span>fixed image alone <span class="swatch" style="background:#0f0"></span>${otherName()} alone; grey where both are alike.` },
    difference: { title: "Difference", needs: ["fixed"], sameContrast: true, draw: drawDifference, controls: ["before", "outlines"], legend: () => `Fixed image minus ${otherName()}: <span class="ramp" style="background:linear-gradient(90deg,#2166ac,#f7f7f7,#b2182b)"></span> blue darker, red brighter; white is no difference.` },
    contours: { title: "Contours", needs: ["fixed"], draw: drawContours, controls: ["before"], legend: () => `<span class="swatch" style="background:${FIXED_LINE}"></span>${hasLabels() ? "labels" : "edges"} of the fixed image${hasLabels() && hasOtherLabels() ? ` <span class="swatch" style="background:${OTHER_LINE}"></span>labels of the ${otherName()}` : ""}, drawn on the ${otherName()}.` },
    grid: { title: "Grid", needs: ["field", "before"], draw: drawGrid, controls: [], legend: () => "Where lines of the fixed grid lie in the moving image (its linear part is taken out); the part of the motion within the slice." },
    jacobian: { title: "Jacobian", needs: ["field", "fixed"], draw: drawJacobian, controls: ["strength"], legend: () => `Change of volume: <span class="ramp" style="background:linear-gradient(90deg,#3b4cc0,#ddd,#b40426)"></span> half to double as large in the moving image; <span class="swatch" style="background:#00ff40"></span>folded, sampled at the resolution of this picture.` },
    uncertainty: { title: "Uncertainty", needs: ["uncertainty", "warped"], draw: drawUncertainty, controls: ["strength"], legend: () => `<span class="ramp" style="background:linear-gradient(90deg,#000,#781c6d,#ed6925,#fcffa4)"></span> 0 to ${state.planes[0].uncertainty_top} ${about.lengthUnit}, on the warped image.` },
    warped: { title: "Warped", only: ["warped"], without: "fixed", draw: (plane) => tile(plane, "warped"), controls: [], legend: () => "The moving image on the fixed grid." },
  };
  const CASE_MODES = {
    prediction: { title: "Prediction", needs: ["predicted_labels"], draw: (plane) => drawLabels(plane, "predicted_labels"), controls: ["strength"], legend: () => `Predicted labels: ${named()}` },
    truth: { title: "Truth", needs: ["fixed_labels"], draw: (plane) => drawLabels(plane, "fixed_labels"), controls: ["strength"], legend: () => `True labels: ${named()}` },
    errors: { title: "Errors", needs: ["fixed_labels", "predicted_labels"], draw: drawErrors, controls: ["strength"], legend: () => `<span class="swatch" style="background:${RIGHT}"></span>right <span class="swatch" style="background:${EXTRA}"></span>predicted, not true <span class="swatch" style="background:${MISSED}"></span>missed.` },
    outline: { title: "Contours", needs: ["predicted_labels"], draw: drawCaseContours, controls: [], legend: () => `${has("fixed_labels") ? `<span class="swatch" style="background:${FIXED_LINE}"></span>true ` : ""}<span class="swatch" style="background:${OTHER_LINE}"></span>predicted outlines.` },
    image: { title: "Image", needs: ["fixed"], draw: (plane) => tile(plane, "fixed"), controls: [], legend: () => "The image alone." },
  };
  const modes = about.registers ? MODES : CASE_MODES;

  const has = (layer) => state.planes.some((plane) => layer in plane.images);
  const other = () => (byId("before").checked && has("before") ? "before" : "warped");
  const otherName = () => (other() === "before" ? "moving image before the deformation" : "warped image");
  const hasLabels = () => has("fixed_labels");
  const hasOtherLabels = () => has(`${other()}_labels`);
  const safe = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
  const named = () =>
    state.planes[0].values
      .map((value, rank) => `<span class="swatch" style="background:${PALETTE[rank % PALETTE.length]}"></span>${safe(about.labelNames[value] || `label ${value}`)}`)
      .join(" ");
  const usable = (mode) =>
    (mode.needs || mode.only).every(has) && !(mode.sameContrast && about.twoContrasts) && !(mode.without && has(mode.without));

  // -- tiles and pixels

  function tile(plane, layer, alpha = 1, smooth = true) {
    const picture = plane.images[layer];
    if (!picture) return;
    const height = picture.height / plane.numbers.length;
    plane.context.globalAlpha = alpha;
    plane.context.imageSmoothingEnabled = smooth;
    plane.context.imageSmoothingQuality = "high";
    plane.context.drawImage(picture, 0, plane.slice * height, picture.width, height, 0, 0, plane.canvas.width, plane.canvas.height);
    plane.context.globalAlpha = 1;
  }

  function pixels(plane, layer) {
    const picture = plane.images[layer];
    const height = picture.height / plane.numbers.length;
    const scratch = surface(picture.width, height);
    scratch.drawImage(picture, 0, plane.slice * height, picture.width, height, 0, 0, picture.width, height);
    return scratch.getImageData(0, 0, picture.width, height);
  }

  function surface(width, height) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    return canvas.getContext("2d", { willReadFrequently: true });
  }

  // A picture made pixel by pixel: `colour(index)` gives red, green, blue and opacity.
  function paint(plane, width, height, colour, alpha = 1, smooth = true) {
    const scratch = surface(width, height);
    const data = scratch.createImageData(width, height);
    for (let index = 0; index < width * height; index++) data.data.set(colour(index), 4 * index);
    scratch.putImageData(data, 0, 0);
    plane.context.globalAlpha = alpha;
    plane.context.imageSmoothingEnabled = smooth;
    plane.context.drawImage(scratch.canvas, 0, 0, plane.canvas.width, plane.canvas.height);
    plane.context.globalAlpha = 1;
  }

  const grey = (data, index) => (data[4 * index] + data[4 * index + 1] + data[4 * index + 2]) / 3;

  // -- ways to compare

  function drawCurtain(plane) {
    const edge = Math.round((byId("curtain").value / 100) * plane.canvas.width);
    tile(plane, other());
    plane.context.save();
    plane.context.beginPath();
    plane.context.rect(0, 0, edge, plane.canvas.height);
    plane.context.clip();
    tile(plane, "fixed");
    plane.context.restore();
    maybeOutlines(plane);
    plane.context.fillStyle = "#fff";
    plane.context.fillRect(edge - shrunk(plane.canvas), 0, 2 * shrunk(plane.canvas), plane.canvas.height);
  }

  function drawFlicker(plane) {
    tile(plane, state.second ? other() : "fixed");
    maybeOutlines(plane);
  }

  function drawCheckerboard(plane) {
    const { width, height } = plane.canvas;
    const side = Math.max(width, height) / byId("fields").value;
    tile(plane, "fixed");
    plane.context.save();
    plane.context.beginPath();
    for (let row = 0; row * side < height; row++)
      for (let column = row % 2; column * side < width; column += 2) plane.context.rect(column * side, row * side, side, side);
    plane.context.clip();
    tile(plane, other());
    plane.context.restore();
  }

  function drawOverlay(plane) {
    const [first, second] = [pixels(plane, "fixed").data, pixels(plane, other()).data];
    paint(plane, plane.columns, plane.rows, (index) => {
      const [one, two] = [grey(first, index), grey(second, index)];
      return [one, two, one, 255];
    });
    maybeOutlines(plane);
  }

  function drawDifference(plane) {
    const [first, second] = [pixels(plane, "fixed").data, pixels(plane, other()).data];
    const [low, middle, high] = [[33, 102, 172], [247, 247, 247], [178, 24, 43]];
    paint(plane, plane.columns, plane.rows, (index) => {
      const share = Math.max(-1, Math.min(1, (grey(first, index) - grey(second, index)) / 153)); // 0.6 of the range, as in overview.png
      return [...mixed(middle, share < 0 ? low : high, Math.abs(share)), 255];
    });
    maybeOutlines(plane);
  }

  function drawContours(plane) {
    tile(plane, other());
    fixedLines(plane);
    if (hasLabels() && hasOtherLabels()) outlines(plane, `${other()}_labels`, OTHER_LINE);
  }

  function fixedLines(plane) {
    if (hasLabels()) outlines(plane, "fixed_labels", FIXED_LINE);
    else edges(plane, "fixed", FIXED_LINE);
  }

  function maybeOutlines(plane) {
    if (byId("outlines").checked) fixedLines(plane);
  }

  function outlines(plane, layer, colour) {
    const { data, width, height } = pixels(plane, layer);
    const [across, down] = [plane.canvas.width / width, plane.canvas.height / height];
    const context = plane.context;
    context.beginPath();
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++) {
        const here = data[4 * (row * width + column)];
        if (column + 1 < width && here !== data[4 * (row * width + column + 1)]) line(context, (column + 1) * across, row * down, 0, down);
        if (row + 1 < height && here !== data[4 * ((row + 1) * width + column)]) line(context, column * across, (row + 1) * down, across, 0);
      }
    stroke(context, colour, 1.5);
  }

  function line(context, x, y, right, down) {
    context.moveTo(x, y);
    context.lineTo(x + right, y + down);
  }

  // How many times smaller the page shows a picture: thinner lines are lost.
  const shrunk = (canvas) => Math.max(1, canvas.width / (canvas.clientWidth || canvas.width));

  function stroke(context, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width * shrunk(context.canvas);
    context.lineCap = "square";
    context.stroke();
  }

  // The steepest pixels of an image, smoothed so that texture is none.
  function edges(plane, layer, colour) {
    const { data, width, height } = pixels(plane, layer);
    const smooth = blurred(blurred(Float32Array.from({ length: width * height }, (_, index) => grey(data, index)), width), width);
    const steep = new Float32Array(width * height);
    for (let row = 1; row + 1 < height; row++)
      for (let column = 1; column + 1 < width; column++) {
        const index = row * width + column;
        steep[index] = Math.hypot(smooth[index + 1] - smooth[index - 1], smooth[index + width] - smooth[index - width]);
      }
    const limit = Math.max(8, Float32Array.from(steep).sort()[Math.floor(steep.length * (1 - EDGE_SHARE))]);
    const rgb = hex(colour);
    paint(plane, width, height, (index) => [...rgb, steep[index] >= limit && ridge(steep, index, width) ? 220 : 0], 1, true);
  }

  // Mean of each pixel and its eight neighbours; the border stays as it is.
  function blurred(values, width) {
    const result = values.slice();
    for (let index = width + 1; index < values.length - width - 1; index++) {
      let sum = 0;
      for (const row of [-width, 0, width]) sum += values[index + row - 1] + values[index + row] + values[index + row + 1];
      result[index] = sum / 9;
    }
    return result;
  }

  // Whether no neighbour across is steeper, so that edges are thin.
  const ridge = (steep, index, width) =>
    (steep[index] >= steep[index - 1] && steep[index] >= steep[index + 1]) || (steep[index] >= steep[index - width] && steep[index] >= steep[index + width]);

  // -- the map

  function drawGrid(plane) {
    tile(plane, "before", 0.75);
    const { data, width, height } = pixels(plane, "field");
    const [across, down, scale] = [plane.canvas.width / width, plane.canvas.height / height, (plane.field.largest / 127) * (plane.canvas.width / plane.columns)];
    const at = (row, column) => {
      const index = 4 * (row * width + column);
      return [(column + 0.5) * across + (data[index + 1] - 128) * scale, (row + 0.5) * down + (data[index] - 128) * scale];
    };
    const context = plane.context;
    context.beginPath();
    for (let row = 0; row < height; row += 2) for (let column = 0; column < width; column++) (column ? context.lineTo : context.moveTo).apply(context, at(row, column));
    for (let column = 0; column < width; column += 2) for (let row = 0; row < height; row++) (row ? context.lineTo : context.moveTo).apply(context, at(row, column));
    stroke(context, "#ffb000", 1);
  }

  const mixed = (from, to, share) => from.map((value, channel) => Math.round(value + (to[channel] - value) * share));

  function drawJacobian(plane) {
    tile(plane, "fixed");
    const { data, width, height } = pixels(plane, "field");
    const strength = byId("strength").value / 100;
    const colour = (index) => {
      const share = (data[4 * index + 2] - 128) / 127;
      return [...mixed([221, 221, 221], share < 0 ? [59, 76, 192] : [180, 4, 38], Math.abs(share)), 255];
    };
    paint(plane, width, height, (index) => (data[4 * index + 2] ? colour(index) : [...FOLD, 255]), strength);
    paint(plane, width, height, (index) => [...FOLD, data[4 * index + 2] ? 0 : 255], 1, false);
  }

  function drawUncertainty(plane) {
    tile(plane, "warped");
    const { data, width, height } = pixels(plane, "uncertainty");
    const stops = [[0, 0, 0], [120, 28, 109], [237, 105, 37], [252, 255, 164]];
    const heat = (share) => {
      const place = Math.min(2, Math.floor(share * 3));
      return mixed(stops[place], stops[place + 1], share * 3 - place);
    };
    paint(plane, width, height, (index) => [...heat(data[4 * index] / 255), 255], byId("strength").value / 100);
  }

  // -- label maps

  const hex = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

  function drawLabels(plane, layer) {
    tile(plane, "fixed");
    const { data, width, height } = pixels(plane, layer);
    const colours = PALETTE.map(hex);
    paint(plane, width, height, (index) => (data[4 * index] ? [...colours[(data[4 * index] - 1) % colours.length], 255] : [0, 0, 0, 0]), byId("strength").value / 100, false);
  }

  function drawErrors(plane) {
    tile(plane, "fixed");
    const [predicted, truth] = [pixels(plane, "predicted_labels"), pixels(plane, "fixed_labels")];
    const [right, extra, missed] = [RIGHT, EXTRA, MISSED].map(hex);
    paint(plane, predicted.width, predicted.height, (index) => {
      const [found, known] = [predicted.data[4 * index], truth.data[4 * index]];
      if (!found && !known) return [0, 0, 0, 0];
      return [...(found === known ? right : found ? extra : missed), 255];
    }, byId("strength").value / 100, false);
  }

  function drawCaseContours(plane) {
    tile(plane, "fixed");
    outlines(plane, "predicted_labels", OTHER_LINE);
    if (has("fixed_labels")) outlines(plane, "fixed_labels", FIXED_LINE);
  }

  // -- the page

  function draw() {
    const mode = modes[state.mode];
    if (!mode) return;
    for (const plane of state.planes) {
      plane.context.clearRect(0, 0, plane.canvas.width, plane.canvas.height);
      mode.draw(plane);
      plane.canvas.setAttribute("aria-label", described(plane, mode));
      plane.output.textContent = plane.total > 1 ? `${plane.numbers[plane.slice]} / ${plane.total}` : "";
    }
    byId("legend").innerHTML = mode.legend();
  }

  function described(plane, mode) {
    const where = plane.total > 1 ? `, ${plane.name} slice ${plane.numbers[plane.slice]} of ${plane.total}` : "";
    return `${about.items[state.item].name}${where}, drawn as ${mode.title.toLowerCase()}`;
  }

  function choose(name) {
    state.mode = name;
    const radio = document.querySelector(`#modes input[value="${name}"]`);
    if (radio) radio.checked = true;
    for (const control of byId("controls").children) {
      const kind = control.dataset.for;
      control.hidden = !modes[name].controls.includes(kind) || (kind === "before" && !has("before"));
    }
    for (const plane of state.planes) plane.canvas.classList.toggle("drag", name === "curtain");
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    play(name === "flicker" && !calm);
    draw();
  }

  function play(on) {
    clearInterval(state.timer);
    state.timer = on ? setInterval(() => { state.second = !state.second; draw(); }, 600) : null;
    byId("play").textContent = on ? "Pause" : "Play";
    byId("play").setAttribute("aria-pressed", String(on));
    byId("legend").setAttribute("aria-live", on ? "off" : "polite");
  }

  async function decoded(text) {
    const picture = new Image();
    picture.src = `data:image/webp;base64,${text}`;
    await picture.decode();
    return picture;
  }

  async function open(number, focus) {
    const ticket = ++state.ticket;
    const planes = JSON.parse(stored[number].textContent);
    for (const plane of planes) {
      plane.images = {};
      const found = await Promise.all(Object.entries(plane.layers).map(async ([layer, text]) => [layer, await decoded(text)]));
      for (const [layer, picture] of found) plane.images[layer] = picture;
      plane.layers = null;
      plane.slice = Math.floor((plane.numbers.length - 1) / 2);
    }
    if (ticket !== state.ticket) return; // another one was opened meanwhile
    [state.item, state.planes] = [number, planes];
    build();
    byId("viewer-title").textContent = about.items[number].name;
    for (const row of document.querySelectorAll("tr[data-item]")) row.setAttribute("aria-current", String(Number(row.dataset.item) === number));
    const names = Object.keys(modes).filter((name) => usable(modes[name]));
    buildModes(names);
    if (names.length) choose(names.includes(state.mode) ? state.mode : names[0]);
    if (focus) byId("viewer-title").focus();
    byId("viewer").dataset.ready = String(number);
  }

  function build() {
    const list = byId("planes");
    list.replaceChildren();
    list.classList.toggle("single", state.planes.length === 1);
    byId("sides").hidden = !state.planes.some((plane) => plane.name);
    for (const plane of state.planes) {
      const figure = document.createElement("figure");
      const ratio = plane.columns / plane.rows;
      figure.style.setProperty("--ratio", ratio);
      figure.style.setProperty("--share", Math.max(0.75, Math.min(1.4, ratio))); // flat views leave room for the others
      if (plane.name) figure.append(Object.assign(document.createElement("figcaption"), { textContent: plane.name }));
      plane.canvas = document.createElement("canvas");
      const scale = Math.max(1, Math.min(6, Math.ceil(640 / Math.max(plane.columns, plane.rows))));
      [plane.canvas.width, plane.canvas.height] = [plane.columns * scale, plane.rows * scale];
      plane.canvas.setAttribute("role", "img");
      plane.context = plane.canvas.getContext("2d");
      dragCurtain(plane.canvas);
      figure.append(plane.canvas, slider(plane));
      list.append(figure);
    }
  }

  function slider(plane) {
    const row = document.createElement("label");
    row.className = "slice";
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: plane.numbers.length - 1, value: plane.slice });
    input.setAttribute("aria-label", `${plane.name || "image"} slice`);
    plane.output = document.createElement("output");
    input.addEventListener("input", () => {
      plane.slice = Number(input.value);
      input.setAttribute("aria-valuetext", `slice ${plane.numbers[plane.slice]} of ${plane.total}`);
      draw();
    });
    row.append("slice", input, plane.output);
    row.hidden = plane.numbers.length === 1;
    if (row.hidden) row.style.display = "none";
    return row;
  }

  function dragCurtain(canvas) {
    const move = (event) => {
      if (state.mode !== "curtain" || !(event.buttons & 1)) return;
      const box = canvas.getBoundingClientRect();
      byId("curtain").value = Math.round((100 * (event.clientX - box.left)) / box.width);
      draw();
    };
    canvas.addEventListener("pointerdown", move);
    canvas.addEventListener("pointermove", move);
  }

  function buildModes(names) {
    const list = byId("modes");
    for (const old of list.querySelectorAll("label")) old.remove();
    for (const name of names) {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "mode", value: name });
      input.addEventListener("change", () => choose(name));
      label.append(input, Object.assign(document.createElement("span"), { textContent: modes[name].title }));
      list.append(label);
    }
  }

  function step(by) {
    const number = state.item + by;
    if (number >= 0 && number < about.items.length) open(number, false);
  }

  function sortBy(column, button) {
    const head = button.closest("th");
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const one of document.querySelectorAll("table.items thead th")) one.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = document.querySelector("table.items tbody");
    const key = (row) => (column === 0 ? row.querySelector(".open").textContent : row.children[column].dataset.sort);
    const rows = [...body.children].sort((one, two) => compared(key(one), key(two), column === 0) * (down ? -1 : 1));
    body.append(...rows);
  }

  function compared(one, two, asText) {
    if (asText) return one.localeCompare(two, undefined, { numeric: true });
    if (one === "" || two === "") return one === two ? 0 : one === "" ? 1 : -1;
    return Number(one) - Number(two);
  }

  for (const id of ["curtain", "fields", "strength", "before", "outlines"]) byId(id).addEventListener("input", draw);
  byId("play").addEventListener("click", () => play(state.timer === null));
  if (byId("previous")) {
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
  }
  for (const button of document.querySelectorAll("button.open")) button.addEventListener("click", () => {
    open(Number(button.closest("tr").dataset.item), true);
    byId("viewer").scrollIntoView({ block: "start" });
  });
  for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => sortBy(Number(button.dataset.column), button));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const names = [...document.querySelectorAll("#modes input")].map((input) => input.value);
    if (event.key === "[") step(-1);
    else if (event.key === "]") step(1);
    else if (event.key === "m" && names.length) choose(names[(names.indexOf(state.mode) + 1) % names.length]);
    else if (event.key === "b" && about.registers && has("before")) { byId("before").checked = !byId("before").checked; draw(); }
  });
  open(0, false);
})();
