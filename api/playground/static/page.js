// The page's behaviour. Whatever a user or the server wrote reaches the document as text only.

const byId = (id) => document.getElementById(id);
const RATIOS = ["1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16"];
const STRIP_LENGTH = 24;
const REFRESH_MS = 5000;
const RETRY_MS = 2000;
// Where the key is kept: in this tab, and no longer than it.
const KEY = "darkroom-key";
// The last preview is as sharp as latents get; the first one is noise.
const MAX_BLUR_PX = 14;

let models = [];
let current = null; // the generation being made: {links, stop}, both known once it is accepted

class Refused extends Error {}

async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const problem = body.detail ?? `The server answered ${response.status}.`;
  // not for a reply that comes after another key was put in
  if (response.status === 401 && sessionStorage.getItem(KEY) === key) lock(key ? problem : "");
  throw new Refused(problem);
}

const ask = async (path, options) => (await request(path, options)).json();

// --- the key ------------------------------------------------------------------------------

const isLocked = () => !byId("key-form").hidden;

function lock(problem) {
  sessionStorage.removeItem(KEY);
  byId("key-note").textContent = problem;
  if (isLocked()) return;
  byId("key-form").hidden = false;
  document.querySelector("main").hidden = true;
  byId("last").hidden = true;
  byId("queue").textContent = "";
  byId("key").focus();
}

async function useKey(text) {
  // what else is typed or pasted cannot be sent as a header
  if (!/^[\x21-\x7e]+$/.test(text)) return lock("That is not a key.");
  sessionStorage.setItem(KEY, text);
  try {
    await ask("/darkroom/models");
  } catch (error) {
    return lock(error.message);
  }
  byId("key").value = "";
  byId("key-form").hidden = true;
  document.querySelector("main").hidden = false;
  byId("prompt").focus();
  refresh();
  showStrip();
}

// --- the form -----------------------------------------------------------------------------

const chosenModel = () => models.find((model) => model.name === byId("model").value);

const option = (value, text) => new Option(text, value);

function showModels() {
  const select = byId("model");
  const before = select.value;
  select.replaceChildren(...models.map((model) => {
    const suffix = { failed: " — failed", loading: " — loading" }[model.state] ?? "";
    return option(model.name, model.name + suffix);
  }));
  if (models.some((model) => model.name === before)) select.value = before;
}

function ratioOf({ width, height }) {
  const divisor = (a, b) => (b ? divisor(b, a % b) : a);
  const unit = divisor(width, height);
  return `${width / unit}:${height / unit}`;
}

function showChosenModel() {
  const model = chosenModel();
  if (!model) return;
  const { defaults, limits } = model;
  const note = byId("model-note");
  const hasFailed = model.state === "failed";
  note.textContent = hasFailed ? `could not be loaded: ${model.reason}` : model.description;
  note.classList.toggle("bad", hasFailed);
  byId("steps").placeholder = defaults.num_inference_steps;
  byId("steps").max = limits.num_inference_steps;
  byId("guidance").placeholder = defaults.guidance_scale;
  byId("guidance").max = limits.guidance_scale;
  byId("negative-field").hidden = !model.takes_negative_prompt;
  const size = byId("size");
  size.replaceChildren(...(model.sizes.length
    ? model.sizes.map((one) => option(`${one.width}x${one.height}`, `${ratioOf(one)} · ${one.width}×${one.height}`))
    : RATIOS.map((ratio) => option(ratio, ratio))));
  if (model.sizes.length) size.value = `${defaults.size.width}x${defaults.size.height}`;
}

function wish() {
  const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
  const size = byId("size").value;
  const [width, height] = size.split("x").map(Number);
  return {
    model: byId("model").value || undefined,
    prompt: byId("prompt").value,
    negative_prompt: (!byId("negative-field").hidden && byId("negative").value) || undefined,
    num_inference_steps: number("steps"),
    guidance_scale: number("guidance"),
    seed: number("seed"),
    ...(size.includes(":") ? { aspect_ratio: size } : size ? { width, height } : {}),
  };
}

// --- the stage ----------------------------------------------------------------------------

function setWorking(working) {
  byId("stage").dataset.state = working ? "working" : "idle";
  byId("lamp").classList.toggle("on", working);
  byId("generate").disabled = working;
  byId("cancel").hidden = !working;
  byId("progress").hidden = !working;
  byId("progress").value = 0;
}

function say(text) {
  byId("status").textContent = text;
}

function complain(text) {
  byId("error").textContent = text;
}

function clearStage() {
  for (const id of ["print", "download", "again"]) byId(id).hidden = true;
  byId("hint").hidden = byId("stage").dataset.state === "working";
}

function showImage(src, ratio, blurPx) {
  byId("print").style.setProperty("--ratio", ratio);
  byId("picture").style.setProperty("--blur", `${blurPx}px`);
  byId("picture").src = src;
  byId("print").hidden = false;
  byId("hint").hidden = true;
}

async function showPicture(generation, image) {
  const whole = new Image();
  whole.src = image.url;
  await whole.decode();
  if (current) return; // the next one has begun meanwhile
  byId("picture").alt = generation.prompt;
  showImage(image.url, image.width / image.height, 0);
  const seconds = (Date.parse(generation.finished_at) - Date.parse(generation.started_at)) / 1000;
  say([
    `${image.width}×${image.height}`,
    `seed ${image.seed}`,
    `${image.num_inference_steps} steps`,
    `guidance ${image.guidance_scale}`,
    Number.isFinite(seconds) ? `${seconds.toFixed(1)} s` : "",
  ].filter(Boolean).join(" · "));
  const download = byId("download");
  download.href = image.url;
  download.download = image.url.split("?")[0].split("/").pop();
  download.hidden = false;
  const again = byId("again");
  again.onclick = () => {
    byId("seed").value = image.seed;
    byId("more").open = true;
    byId("prompt").focus();
  };
  again.hidden = false;
}

// --- one generation -----------------------------------------------------------------------

async function generate() {
  const mine = { isUnwanted: false };
  current = mine;
  complain("");
  setWorking(true);
  clearStage();
  say("sending");
  try {
    const generation = await ask("/darkroom/generations", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wish()),
    });
    follow(generation);
    if (mine.isUnwanted) cancel();
  } catch (error) {
    end(error.message);
  }
}

// Not by EventSource, which cannot send a key.
async function follow(generation) {
  const mine = { links: generation.links, stop: new AbortController() };
  const acts = actsOf(generation.width / generation.height);
  current = mine;
  while (current === mine) {
    try {
      const response = await request(mine.links.events, { signal: mine.stop.signal });
      for await (const [name, told] of eventsOf(response)) {
        if (current !== mine) return;
        acts[name]?.(told);
      }
    } catch (error) {
      if (current === mine && error instanceof Refused) end(error.message);
    }
    if (current !== mine) return;
    say("connection lost, trying again");
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

const actsOf = (ratio) => ({
  queued: ({ position }) => say(position ? `waiting behind ${position}` : "waiting"),
  running: () => say("starting"),
  step: ({ step, steps }) => {
    byId("progress").value = step / steps;
    say(`step ${step} of ${steps}`);
  },
  preview: ({ step, steps, image }) => {
    byId("picture").alt = "";
    showImage(image, ratio, MAX_BLUR_PX * (1 - step / steps));
  },
  done: (ended) => finish(ended),
  failed: (ended) => end(ended.error?.message ?? "The generation failed."),
  cancelled: () => end("", "cancelled"),
});

async function* eventsOf(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.replaceAll("\r\n", "\n").split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block);
      const data = /^data: (.*)$/m.exec(block);
      if (name && data) yield [name[1], JSON.parse(data[1])];
    }
  }
}

async function finish(generation) {
  const image = generation.images[0];
  end("");
  await showPicture(generation, image).catch(() => complain("The picture could not be loaded."));
  showStrip();
}

function end(problem, told = "") {
  current?.stop?.abort();
  current = null;
  setWorking(false);
  complain(problem);
  say(told);
  if (problem || told) clearStage();
}

async function cancel() {
  if (!current) return;
  say("cancelling");
  current.isUnwanted = true;
  if (!current.links) return; // not accepted yet: cancelled as soon as it is
  try {
    await ask(current.links.cancel, { method: "POST" });
  } catch (error) {
    complain(error.message);
  }
}

// --- the strip ----------------------------------------------------------------------------

function frame(generation, image) {
  const button = document.createElement("button");
  const thumb = document.createElement("img");
  const seed = document.createElement("small");
  const prompt = document.createElement("small");
  button.type = "button";
  button.setAttribute("aria-label", `${generation.prompt}, seed ${image.seed}`);
  button.title = generation.prompt;
  thumb.src = image.url;
  thumb.alt = "";
  thumb.loading = "lazy";
  prompt.textContent = generation.prompt;
  seed.textContent = `seed ${image.seed}`;
  button.append(thumb, prompt, seed);
  button.addEventListener("click", () => {
    if (current) return;
    complain("");
    showPicture(generation, image).catch(() => complain("The picture is gone."));
    mark(button);
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function mark(chosen) {
  for (const button of document.querySelectorAll("#strip button")) {
    button.setAttribute("aria-current", String(button === chosen));
  }
}

async function showStrip() {
  const path = `/darkroom/generations?state=succeeded&limit=${STRIP_LENGTH}`;
  const { generations } = await ask(path).catch(() => ({ generations: [] }));
  const frames = generations.flatMap((one) => one.images.map((image) => frame(one, image)));
  byId("strip").replaceChildren(...frames.slice(0, STRIP_LENGTH));
  byId("last").hidden = frames.length === 0;
}

// --- the whole ----------------------------------------------------------------------------

async function showQueue() {
  const { queued_tasks: queued, running_tasks: running } = await ask("/darkroom/queue");
  const counts = [running && `${running} being made`, queued && `${queued} waiting`];
  byId("queue").textContent = counts.filter(Boolean).join(", ");
}

async function showServer() {
  const before = JSON.stringify(models.map(({ name, state }) => [name, state]));
  ({ models } = await ask("/darkroom/models"));
  if (JSON.stringify(models.map(({ name, state }) => [name, state])) === before) return;
  const size = byId("size").value;
  showModels();
  showChosenModel();
  if ([...byId("size").options].some((one) => one.value === size)) byId("size").value = size;
}

async function refresh() {
  if (document.hidden || isLocked()) return;
  await Promise.all([showServer(), showQueue()]).catch((error) => {
    byId("queue").textContent = error.message;
  });
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!current) generate();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("form").requestSubmit();
  }
});
byId("cancel").addEventListener("click", cancel);
byId("model").addEventListener("change", showChosenModel);
// not by the attribute: a browser complains of it where somebody was quicker to choose a field
if (document.activeElement === document.body) byId("prompt").focus();
setInterval(refresh, REFRESH_MS);
refresh();
showStrip();
