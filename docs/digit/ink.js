// From strokes to the 28 x 28 grey values that the networks were trained on, as the makers of MNIST made them:
//
//   1. The ink is all that lies within half a pen's width of the strokes, so large that the longer side of the box
//      around it takes 20 pixels. (The pen keeps its width: a small drawing gets no thicker lines than a large one.)
//   2. The grey value of a pixel, in [0, 1], is the share of the 8 x 8 points in it that lie in the ink.
//   3. The centre of mass of the ink lies in the middle of the pixel in row 14 and column 14, to 1/16 of a pixel.
//      (MNIST moved its images by whole pixels; there it lies in the middle of this pixel on average.)
//
// Nothing of it asks the browser for pixels: every browser makes the same image of the same strokes.

export const SIDE = 28;
const BOX = 20;
const PEN = 2.4; // pixels: the mean grey value is then that of MNIST
const MIDDLE = 14.5;
const POINTS = 8; // in a pixel, along a side
const SMALLEST = 0.1; // of the drawing area: a smaller drawing stays small, and a dot a dot

const LENGTH = BOX * POINTS; // of the box, and with the radius of the pen, in distances between points
const RADIUS = (PEN * POINTS) / 2;

/** The pen's width in a drawing area of side 1, where the drawing takes three quarters of it. */
export const PEN_ON_PAPER = (0.75 * PEN) / BOX;

/** Grey values [28 * 28], row after row, of strokes [[[x, y], ...], ...] in a drawing area from 0 to 1, y downwards. */
export function pixelsOf(strokes) {
  const pixels = new Float32Array(SIDE * SIDE);
  const { rows, columns } = inkOf(strokes);
  const [down, right] = [rows, columns].map((places) => Math.round(MIDDLE * POINTS - 0.5 - mean(places)));
  rows.forEach((row, i) => {
    const [y, x] = [row + down, columns[i] + right].map((place) => Math.floor(place / POINTS));
    if (y >= 0 && y < SIDE && x >= 0 && x < SIDE) pixels[y * SIDE + x] += 1 / POINTS ** 2;
  });
  return pixels;
}

/** The rows and the columns of the points that lie in the ink. */
function inkOf(strokes) {
  const [left, width] = range(strokes.flat().map(([x]) => x));
  const [top, height] = range(strokes.flat().map(([, y]) => y));
  const scale = (LENGTH - 2 * RADIUS) / Math.max(width, height, SMALLEST);
  const ink = new Uint8Array(LENGTH * LENGTH);
  for (const stroke of strokes) {
    const line = stroke.map(([x, y]) => [(x - left) * scale + RADIUS, (y - top) * scale + RADIUS]);
    line.forEach((end, i) => addSegment(ink, line[Math.max(i - 1, 0)], end));
  }
  const [rows, columns] = [[], []];
  ink.forEach((inked, place) => {
    if (inked) {
      rows.push(Math.floor(place / LENGTH));
      columns.push(place % LENGTH);
    }
  });
  return { rows, columns };
}

/** Marks the points within the pen's radius of the segment from a to b. */
function addSegment(ink, a, b) {
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const squared = dx * dx + dy * dy;
  const [[left, right], [top, bottom]] = [0, 1].map((axis) => [
    Math.max(Math.floor(Math.min(a[axis], b[axis]) - RADIUS), 0),
    Math.min(Math.ceil(Math.max(a[axis], b[axis]) + RADIUS), LENGTH),
  ]);
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const [x, y] = [column + 0.5 - a[0], row + 0.5 - a[1]];
      const along = squared && Math.min(Math.max((x * dx + y * dy) / squared, 0), 1);
      const [across, up] = [x - along * dx, y - along * dy];
      if (across * across + up * up <= RADIUS * RADIUS) ink[row * LENGTH + column] = 1;
    }
  }
}

function mean(numbers) {
  return numbers.reduce((sum, x) => sum + x, 0) / (numbers.length || 1);
}

function range(numbers) {
  const least = numbers.reduce((a, b) => Math.min(a, b), Infinity);
  return [least, numbers.reduce((a, b) => Math.max(a, b), -Infinity) - least];
}
