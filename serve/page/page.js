// What the page does. Paths are relative, so that it works below any route prefix.
import { STRINGS } from "./strings.js";

const LABELS_SHOWN = 5;
const ROWS_SHOWN = 12;
// An effect of this many nats of log-odds, or the largest one if that is more, has the full colour.
const FULL_EFFECT = 2;

const find = (id) => document.getElementById(id);
let strings = STRINGS.en;
let models = [];
let shown = null;
let asked = 0;

class Problem extends Error {}

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  if (find("key").value) headers.authorization = `Bearer ${find("key").value}`;
  let reply;
  try {
    reply = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Problem(strings.unreachable);
  }
  if (reply.ok) return reply.json();
  if (reply.status === 401) {
    find("keyField").hidden = false;
    find("key").focus();
    throw new Problem(strings.needsKey);
  }
  const problem = await reply.json().catch(() => ({ title: `HTTP ${reply.status}`, errors: [] }));
  throw new Problem([problem.title, ...(problem.errors ?? []).map((error) => error.message)].join(" – "));
}

// The default model first; its name is the page's.
async function load() {
  if (models.length) return;
  models = (await call("v1/models")).models.sort((a, b) => b.default - a.default);
  find("title").textContent = document.title = models[0].name;
}

async function ask(event) {
  event?.preventDefault();
  const text = find("text").value;
  const number = ++asked;
  show({ problem: text.trim() ? "" : strings.empty });
  if (!text.trim()) return find("text").focus();
  busy(true);
  try {
    await load();
    const found = { text, answers: [], explanation: null };
    // One after the other: side by side they would take each other's time.
    for (const model of models) {
      const began = performance.now();
      const reply = await call("v1/predict", { inputs: text, model: model.name, top_k: LABELS_SHOWN });
      found.answers.push({ model: reply.model, name: model.name, standard: model.default, answer: reply.answers[0], milliseconds: performance.now() - began });
      if (number === asked) show({ found });
    }
    found.explanation = await call("v1/explain", { inputs: text });
    if (number === asked) show({ found });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (number === asked) show({ problem: error.message });
  } finally {
    if (number === asked) busy(false);
  }
}

function busy(now) {
  find("send").textContent = now ? strings.asking : strings.ask;
  find("send").setAttribute("aria-disabled", now);
  find("answers").setAttribute("aria-busy", now);
}

function show({ found = shown, problem = "" }) {
  shown = found;
  find("problem").textContent = problem;
  find("text").setAttribute("aria-invalid", problem !== "");
  find("answers").replaceChildren(...(found?.answers ?? []).map(card));
  find("explanation").hidden = !found?.explanation;
  if (found?.explanation) explain(found.text, found.explanation);
  find("status").textContent = (found?.answers ?? []).map(sentence).join(" ");
}

const percent = (share) => new Intl.NumberFormat(strings.lang, { style: "percent", maximumFractionDigits: 1 }).format(share);
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const sentence = ({ name, answer }) => fill(strings.said, { model: name, label: answer.label, probability: percent(answer.probability) });

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function card({ name, model, standard, answer, milliseconds }) {
  const about = [model.variant, ...(standard ? [strings.standard] : [])].join(" · ");
  return element(
    "article",
    { class: "card", "aria-label": name },
    element("h2", {}, name),
    element("p", { class: "quiet" }, about),
    element("p", { class: "label" }, answer.label),
    element("ul", { class: "bars" }, ...answer.probabilities.map(bar)),
    element("p", { class: "quiet" }, fill(strings.time, { time: milliseconds.toFixed(milliseconds < 10 ? 1 : 0) })),
  );
}

function bar({ label, probability }) {
  const inner = element("span", { class: "fill" });
  inner.style.width = `${100 * probability}%`;
  return element(
    "li",
    {},
    element("span", { class: "name" }, label),
    element("span", { class: "value" }, percent(probability)),
    element("span", { class: "bar", "aria-hidden": "true" }, inner),
  );
}

function explain(text, { label, words }) {
  find("explanationTitle").textContent = fill(strings.explanation, { label });
  // Places count whole characters, and a string here counts some of them twice.
  const characters = Array.from(text);
  const most = Math.max(FULL_EFFECT, ...words.map((word) => Math.abs(word.attribution)));
  const parts = [];
  let place = 0;
  for (const word of words) {
    parts.push(characters.slice(place, word.start).join(""));
    const span = element("span", { class: `word ${word.attribution < 0 ? "against" : "for"}`, title: effect(word) }, word.text);
    span.style.setProperty("--weight", Math.abs(word.attribution) / most);
    parts.push(span);
    place = word.end;
  }
  parts.push(characters.slice(place).join(""));
  find("words").replaceChildren(...parts);
  const ranked = [...words].sort((a, b) => Math.abs(b.attribution) - Math.abs(a.attribution)).slice(0, ROWS_SHOWN);
  find("wordRows").replaceChildren(...ranked.map(row));
}

const effect = (word) => (word.attribution < 0 ? "−" : "+") + Math.abs(word.attribution).toFixed(2);

function row(word) {
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, word.text),
    element("td", { class: "number" }, effect(word)),
    element("td", { class: "number" }, percent(word.probability_without)),
  );
}

function speak(language) {
  strings = STRINGS[language];
  document.documentElement.lang = strings.lang;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = strings[node.dataset.text];
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", strings[node.dataset.label]);
  for (const node of document.querySelectorAll("[data-language]")) node.setAttribute("aria-pressed", node.dataset.language === language);
  show({});
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    localStorage.setItem("language", button.dataset.language);
    speak(button.dataset.language);
  });
}
find("ask").addEventListener("submit", ask);
find("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event);
});
const remembered = localStorage.getItem("language");
speak(remembered in STRINGS ? remembered : navigator.language.startsWith("zh") ? "zh" : "en");
load().catch((error) => {
  if (!(error instanceof Problem)) throw error;
  show({ problem: error.message });
});
