"use strict";

const byId = (id) => document.getElementById(id);
const TRIES = 5;
let limits = { bytes: Infinity };

/** An element with a class, whose text is never read as HTML. */
function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

const percent = (probability) => `${(100 * probability).toFixed(1)} %`;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function describe() {
  const facts = await (await fetch("version")).json();
  limits = facts.limits;
  let unsure = "";
  if (facts.abstain !== null) unsure = `, unsure below ${percent(facts.abstain)}`;
  if (facts.abstain_precision !== null) unsure = `, unsure below the threshold of each class for a precision of ${percent(facts.abstain_precision)}`;
  const names = facts.classes.slice(0, 12).join(", ") + (facts.classes.length > 12 ? " …" : "");
  byId("model").textContent = `${facts.model.network}, ${facts.classes.length} classes (${names})${unsure}`;
}

/** The response for one photo. A server that is busy is asked again. */
async function send(path, file) {
  const form = new FormData();
  form.append("images", file);
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(path, { method: "POST", body: form });
    const seconds = Number(response.headers.get("Retry-After"));
    if (!seconds || attempt === TRIES) return response;
    await pause(seconds);
  }
}

async function ask(file) {
  if (file.size > limits.bytes) return { error: `has ${file.size.toLocaleString("en")} bytes, allowed are ${limits.bytes.toLocaleString("en")}` };
  const body = await (await send("predict", file)).json();
  return body.images ? body.images[0] : body;
}

/** A button that shows which parts of the photo speak for the class. */
function whyButton(card, file) {
  const button = element("button", "Why?");
  button.onclick = async () => {
    button.disabled = true;
    const response = await send("explain", file).catch(() => null);
    if (!response?.ok) {
      const reason = (await response?.json().catch(() => null))?.error ?? "the server does not answer";
      return button.replaceWith(element("p", `No explanation: ${reason}`, "problem"));
    }
    const picture = element("img");
    picture.alt = "The photo as the network sees it";
    picture.src = URL.createObjectURL(await response.blob());
    card.firstElementChild.replaceWith(picture);
    button.replaceWith(element("p", "The bright parts speak for this class: without them, its score falls.", "soft"));
  };
  return button;
}

function row(found) {
  const line = element("li");
  const track = element("div", "", "track");
  const bar = element("div", "", "bar");
  bar.style.width = `${100 * found.probability}%`;
  track.append(bar);
  line.append(element("span", found.class), element("output", percent(found.probability)), track);
  return line;
}

function show(card, file, answer) {
  card.className = "";
  const text = element("div");
  text.append(element("p", file.name, "name"));
  if (answer.error) {
    text.append(element("p", `Not classified: ${answer.error}`, "problem"));
  } else {
    text.append(element("h2", answer.unsure ? "Unsure" : answer.class));
    if (answer.unsure) text.append(element("p", `Perhaps ${answer.class}: its probability is below the threshold.`, "unsure"));
    if (answer.outlier) text.append(element("p", "This photo is unlike the training images: its class may mean nothing.", "unsure"));
    const list = element("ol");
    list.append(...answer.top.map(row));
    text.append(list, whyButton(card, file));
  }
  card.lastElementChild.replaceWith(text);
}

async function classify(file) {
  const card = element("article", "", "waiting");
  const photo = element("img");
  photo.alt = "";
  // Not every browser shows HEIC or TIFF.
  photo.onerror = () => photo.replaceWith(element("p", "This browser cannot show the photo.", "soft"));
  const text = element("div");
  text.append(element("p", file.name, "name"), element("p", "…"));
  card.append(photo, text);
  byId("answers").prepend(card);
  // A folder can be dropped, but not read.
  const readable = await file.slice(0, 1).arrayBuffer().then(() => true, () => false);
  if (!readable) return show(card, file, { error: "it is a folder, or cannot be read; drop the photos themselves" });
  photo.src = URL.createObjectURL(file);
  try {
    show(card, file, await ask(file));
  } catch (error) {
    show(card, file, { error: "the server does not answer" });
  }
}

async function classifyAll(files) {
  byId("problem").hidden = files.length > 0;
  byId("problem").textContent = "That was no file: save the photo first, then drop or choose it.";
  // One after the other, so that many photos do not fill the server's queue.
  for (const file of [...files]) await classify(file);
}

for (const id of ["files", "camera"]) {
  byId(id).addEventListener("change", async (event) => {
    await classifyAll([...event.target.files]);
    event.target.value = "";
  });
}
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", (event) => classifyAll(event.dataTransfer.files));
document.addEventListener("paste", (event) => event.clipboardData.files.length && classifyAll(event.clipboardData.files));
describe().catch(() => { byId("model").textContent = "The server does not answer."; });
