// The page: what is drawn goes through ink.js to the networks of committee.js, and what they say into the document.

import { EXAMPLES } from "./examples.js";
import { pixelsOf, SIDE } from "./ink.js";
import { paper } from "./paper.js";
import { counted, percent, ranked, size, unsureness, verdict } from "./words.js";

const WEIGHTS = 668_672; // of a network
const SILENCE = 600; // milliseconds without a change after which the answer is read out

const at = (id) => document.getElementById(id);
let networks = null; // those of committee.js, once they are there
let order = null; // of shuffled pixels
let due = null; // when the change happened that is to be answered
let busy = false;
let announcement = 0;

/** What the page shows now, for whoever wants the numbers: pixels [784] and the answer, or null. */
export const shown = { pixels: null, answer: null };

const drawing = paper(at("paper"), (when) => {
  order = null;
  changed(when);
});

/** Ends when all changes are answered. */
export async function answered() {
  while (busy || due !== null) await new Promise(requestAnimationFrame);
}

/** Answers the newest change; those that come while the networks compute are answered by one answer. */
async function changed(when) {
  due = when;
  const drawn = drawing.strokes().length > 0;
  at("hint").hidden = drawn;
  at("clear").disabled = !drawn;
  at("shuffle").disabled = !drawn || !networks;
  at("shuffle").setAttribute("aria-pressed", order !== null);
  at("shuffle").textContent = order ? "Put them back" : "Shuffle the pixels";
  at("paper").setAttribute("aria-label", `The drawing area, ${drawn ? "with a drawing" : "empty"}`);
  if (busy) return;
  busy = true;
  try {
    while (due !== null) {
      const since = due;
      due = null;
      await answer(since);
    }
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
  }
}

async function answer(since) {
  const drawn = drawing.strokes().length > 0;
  const straight = pixelsOf(drawing.strokes());
  const pixels = order ? Float32Array.from(order, (from) => straight[from]) : straight;
  showPixels(pixels, drawn);
  if (!networks) return;
  const said = drawn ? await networks.answer(pixels) : null;
  Object.assign(shown, { pixels: drawn ? pixels : null, answer: said });
  if (said) {
    showAnswer(said);
    tell("milliseconds", performance.now() - since, (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`));
  } else {
    showNothing();
  }
  clearTimeout(announcement);
  announcement = setTimeout(() => {
    at("said").textContent = `${at("says").textContent} ${at("because").textContent}`;
  }, SILENCE);
}

/** The grey values as an image. */
function showPixels(pixels, drawn) {
  const context = at("seen").getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  pixels.forEach((grey, i) => image.data.set([255 * grey, 255 * grey, 255 * grey, 255], 4 * i));
  context.putImageData(image, 0, 0);
  const what = order ? "the pixels of your drawing, shuffled" : "your drawing, white on black";
  at("seen").setAttribute("aria-label", `What the networks see: ${drawn ? what : "nothing yet"}`);
}

function showAnswer(said) {
  say(verdict(said));
  const digits = ranked(said.probabilities);
  at("digits")
    .querySelectorAll("tr")
    .forEach((row, digit) => {
      bar(row, said.probabilities[digit]);
      row.classList.toggle("first", digit === digits[0]);
    });
  at("votes")
    .querySelectorAll("li")
    .forEach((tile, i) => {
      const [vote] = ranked(said.networks[i]);
      tile.classList.toggle("other", vote !== digits[0]);
      tile.style.setProperty("--share", said.networks[i][vote]);
      tile.querySelector("b").textContent = vote;
      tile.querySelector(".hidden").textContent = `, ${percent(said.networks[i][vote])} sure`;
      tile.title = `network ${i + 1}: ${vote}, ${percent(said.networks[i][vote])} sure`;
    });
  at("count").textContent = counted(said.networks);
  const { all, ofImage, ofWeights } = unsureness(said);
  showUnsureness(all, ofImage, ofWeights, percent);
  const [alone] = ranked(said.alone);
  at("alone").hidden = false;
  at("alone-digit").textContent = alone;
  tell("alone-share", said.alone[alone], percent);
}

function showNothing() {
  say({ kind: "empty", says: "Nothing is drawn yet.", because: "The networks answer while you draw." });
  for (const row of at("digits").querySelectorAll("tr")) {
    bar(row, 0, () => "–");
    row.classList.remove("first");
  }
  for (const tile of at("votes").querySelectorAll("li")) {
    tile.classList.remove("other");
    tile.style.setProperty("--share", 0);
    tile.querySelector("b").textContent = "–";
    tile.querySelector(".hidden").textContent = "no vote";
    tile.removeAttribute("title");
  }
  at("count").textContent = "";
  showUnsureness(0, 0, 0, () => "–");
  at("alone").hidden = true;
}

function showUnsureness(all, ofImage, ofWeights, inWords) {
  tell("unsure", all, inWords);
  tell("of-image", ofImage, inWords);
  tell("of-weights", ofWeights, inWords);
  document.querySelector(".unsure .image").style.width = `${100 * ofImage}%`;
  document.querySelector(".unsure .weights").style.width = `${100 * ofWeights}%`;
}

function say({ kind, says, because }) {
  at("verdict").dataset.kind = kind;
  at("says").textContent = says;
  at("because").textContent = because;
}

/** A number into its <data>: exactly as value, in words as text. */
function tell(id, value, inWords) {
  const element = typeof id === "string" ? at(id) : id;
  element.value = value;
  element.textContent = inWords(value);
}

function bar(row, share, inWords = percent) {
  row.style.setProperty("--share", share);
  tell(row.querySelector("data"), share, inWords);
}

function fail(error) {
  console.error(error);
  say({ kind: "wait", says: "The networks could not be loaded.", because: `${error.message ?? error}` });
  at("said").textContent = "The networks could not be loaded.";
}

/** The rows and tiles that answers are shown in. */
function build(networks) {
  for (let digit = 0; digit < 10; digit++) {
    const row = at("digits").insertRow();
    row.innerHTML = `<th scope="row">${digit}</th><td><span class="bar"></span><data value="0">–</data></td>`;
  }
  for (let i = 0; i < networks; i++) {
    const tile = document.createElement("li");
    tile.innerHTML = `<b>–</b><span class="hidden">no vote</span>`;
    at("votes").append(tile);
  }
}

function shuffled(length) {
  const places = Array.from({ length }, (_, i) => i);
  for (let i = length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [places[i], places[j]] = [places[j], places[i]];
  }
  return places;
}

at("clear").addEventListener("click", () => {
  drawing.set([]);
  at("paper").scrollIntoView({ block: "nearest" });
});
at("shuffle").addEventListener("click", (event) => {
  order = order ? null : shuffled(SIDE * SIDE);
  changed(event.timeStamp);
});
let next = Math.floor(Math.random() * EXAMPLES.length);
at("example").addEventListener("click", () => {
  drawing.set(EXAMPLES[next].map((stroke) => [...stroke]));
  next = (next + 1) % EXAMPLES.length;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" || event.key === "Delete") drawing.set([]);
});

build(16);
showUnsureness(0, 0, 0, () => "–");
changed(performance.now());
try {
  say({ kind: "wait", says: "The networks are on their way.", because: "You can draw already." });
  const { load } = await import("./committee.js");
  networks = await load((share) => {
    if (!networks) at("because").textContent = `${Math.round(100 * share)} % are here. You can draw already.`;
  });
  const { bytes } = networks;
  at("weights").textContent = WEIGHTS.toLocaleString("en");
  at("bytes-floats").textContent = size(4 * 16 * WEIGHTS);
  for (const name of ["networks", "alone", "runtime"]) tell(`bytes-${name}`, bytes[name], size);
  changed(performance.now());
} catch (error) {
  fail(error);
}
