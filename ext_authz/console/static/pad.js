// Pads to draw on, over tables of numbers: what is drawn becomes the numbers, and the numbers are shown. The page works
// without it.
const PEN = 4.5;
const FINE = 4;

for (const pad of document.querySelectorAll("canvas[data-draws]")) {
  const fields = [...document.getElementsByName(pad.dataset.draws)];
  const [width, height, least, most] = ["width", "height", "least", "most"].map((name) => Number(pad.dataset[name]));
  const whole = fields[0].step === "1";
  const context = pad.getContext("2d");
  const unit = Math.min(pad.width / width, pad.height / height);
  let strokes = [];

  // Numbers to pixels.
  function show() {
    context.clearRect(0, 0, pad.width, pad.height);
    context.fillStyle = context.strokeStyle = getComputedStyle(pad).color;
    fields.forEach((field, at) => {
      context.globalAlpha = Math.max(0, Math.min(1, (Number(field.value) - least) / (most - least))) * (strokes.length ? 0.35 : 1);
      context.fillRect((at % width) * unit, Math.floor(at / width) * unit, unit, unit);
    });
    context.globalAlpha = 1;
    draw(context, unit * PEN / FINE, (point) => point);
  }

  function draw(target, pen, moved) {
    target.lineWidth = pen;
    target.lineCap = target.lineJoin = "round";
    for (const stroke of strokes) {
      target.beginPath();
      stroke.forEach((point, at) => target[at ? "lineTo" : "moveTo"](...moved(point)));
      if (stroke.length === 1) target.lineTo(...moved(stroke[0]));
      target.stroke();
    }
  }

  // Strokes to numbers, as the well-known digits were made: moved to the middle, as large as there is room for, on a
  // grid that is four times as fine, of which every number counts its squares.
  function count() {
    const wide = width * FINE, high = height * FINE, points = strokes.flat();
    const of = (axis, pick) => Math[pick](...points.map((point) => point[axis]));
    const [left, right, top, bottom] = [of(0, "min"), of(0, "max"), of(1, "min"), of(1, "max")];
    const larger = 3 * FINE / unit;  // at most so much larger than drawn: a dot stays one
    const scale = Math.min((wide - PEN) / (right - left || 1), (high - PEN) / (bottom - top || 1), larger);
    const fine = document.createElement("canvas");
    fine.width = wide;
    fine.height = high;
    const target = fine.getContext("2d", { willReadFrequently: true });
    draw(target, PEN, ([x, y]) => [(x - (left + right) / 2) * scale + wide / 2, (y - (top + bottom) / 2) * scale + high / 2]);
    const seen = target.getImageData(0, 0, wide, high).data, sums = fields.map(() => 0);
    for (let y = 0; y < high; y++) {
      for (let x = 0; x < wide; x++) {
        sums[Math.floor(y / FINE) * width + Math.floor(x / FINE)] += seen[(y * wide + x) * 4 + 3] / 255;
      }
    }
    fields.forEach((field, at) => {
      const value = least + (most - least) * sums[at] / (FINE * FINE);
      field.value = whole || most - least >= 10 ? Math.round(value) : Number(value.toFixed(3));
    });
  }

  function place(event) {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) * pad.width / box.width, (event.clientY - box.top) * pad.height / box.height];
  }

  function clear() {
    strokes = [];
    for (const field of fields) field.value = least;
    show();
  }

  pad.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    pad.setPointerCapture(event.pointerId);
    strokes.push([place(event)]);
    count();
    show();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    const all = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1).push(...(all.length ? all : [event]).map(place));
    count();
    show();
  });
  pad.parentElement.querySelector("button").addEventListener("click", clear);
  for (const field of fields) {
    field.addEventListener("input", () => {
      strokes = [];
      show();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  pad.parentElement.hidden = false;
  fields[0].closest("details").open = false;
  show();
}
