// What the page does. Paths are relative, so that it works below any route prefix.
import { STRINGS } from "./strings.js";

const LABELS_SHOWN = 5;
const ROWS_SHOWN = 12;

const find = (id) => document.getElementById(id);
let strings = STRINGS.en;
let models = [];
let shown = null;
let asked = 0;

class Problem extends Error {}

async function call(path, body, id) {
  const headers = { "content-type": "application/json" };
  if (id) headers["x-request-id"] = id;
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

// The default model first; its name is the page's, and its fields are asked for. A model with other fields is not asked.
async function load() {
  if (models.length) return;
  const listed = (await call("v1/models")).models.sort((a, b) => b.default - a.default);
  const { name, fields } = listed[0];
  models = listed.filter((model) => String(model.fields) === String(fields));
  find("title").textContent = document.title = name;
  if (fields.length > 1) layOut(fields);
}

// The text that is there is the first field; each other one gets a text of its own.
function layOut(fields) {
  const first = find("text");
  first.name = fields[0];
  for (const name of fields.slice(1)) {
    const field = first.cloneNode();
    Object.assign(field, { id: `text-${name}`, name, value: "" });
    find("fields").append(element("label", { for: field.id }), field);
  }
  nameFields();
}

const texts = () => [...find("fields").querySelectorAll("textarea")];
const nameOf = (field) => strings[`field${field[0].toUpperCase()}${field.slice(1)}`] ?? field;

function nameFields() {
  for (const field of texts()) if (field.name) field.labels[0].textContent = nameOf(field.name);
}

// Whether a text is missing; then it is said of which field, and the next key goes there.
function missing() {
  const blank = texts().find((field) => !field.value.trim());
  show({ problem: !blank ? "" : blank.name ? fill(strings.emptyOf, { field: nameOf(blank.name) }) : strings.empty });
  blank?.focus();
  return blank;
}

async function ask(event) {
  event?.preventDefault();
  const number = ++asked;
  if (missing()) return;
  busy(true);
  try {
    await load();
    if (missing()) return;
    const given = Object.fromEntries(texts().map((field) => [field.name, field.value]));
    const inputs = texts().length > 1 ? given : find("text").value;
    const found = { given, view: viewOf(models[0]), answers: [], explanation: null };
    // One after the other: side by side they would take each other's time.
    for (const listed of models) {
      const { name, default: standard, feedback, choices } = listed;
      const began = performance.now();
      const id = newId();
      const { model, answers } = await call("v1/predict", { inputs, model: name }, id);
      const milliseconds = performance.now() - began;
      const shown = viewOf(listed);
      const verdict = feedback && shown.correct ? { id, choices, state: "" } : null;
      found.answers.push({ model, name, standard, view: shown, answer: answers[0], milliseconds, verdict });
      if (number === asked) show({ found });
    }
    if (models[0].explains) found.explanation = await call("v1/explain", { inputs });
    if (number === asked) show({ found });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (number === asked) show({ problem: error.message });
  } finally {
    if (number === asked) busy(false);
  }
}

// Of 128 random bits; crypto.randomUUID is there on pages of https alone.
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

function busy(now) {
  find("send").textContent = now ? strings.asking : strings.ask;
  find("send").setAttribute("aria-disabled", now);
  find("answers").setAttribute("aria-busy", now);
}

function show({ found = shown, problem = "" }) {
  shown = found;
  find("problem").textContent = problem;
  for (const field of texts()) field.setAttribute("aria-invalid", problem !== "");
  find("answers").replaceChildren(...(found?.answers ?? []).map(card));
  find("explanation").hidden = !found?.explanation;
  if (found?.explanation) explain(found);
  find("status").textContent = (found?.answers ?? []).map(sentence).join(" ");
}

const percent = (share) => new Intl.NumberFormat(strings.lang, { style: "percent", maximumFractionDigits: 1 }).format(share);
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const decimal = (value) => new Intl.NumberFormat(strings.lang, { maximumSignificantDigits: 4 }).format(value);
const named = (labels) => labels.join(strings.comma) || strings.noLabel;
const sentence = ({ name, view, answer }) => view.sentence(name, answer);

// How answers are shown, by what the list of models says of them. full: the effect of a word that has the full colour, or the
// largest one if that is more; of labels in nats of log-odds.
const VIEWS = {
  labels: {
    short: ({ label }) => label,
    sentence: (model, { label, probability, in_scope }) =>
      fill(in_scope === false ? strings.saidNone : strings.saidLabels, { model, label, probability: percent(probability) }),
    more: ({ probabilities, in_scope }) => [
      ...(in_scope === false ? [element("p", { class: "quiet" }, strings.notEnough)] : []),
      element("ul", { class: "bars" }, ...probabilities.slice(0, LABELS_SHOWN).map(bar)),
    ],
    given: ({ label }) => label,
    saying: (right) => right,
    correct: oneOf,
    effect: "effectLabels",
    full: 2,
  },
  list: {
    short: ({ label, labels }) => label ?? named(labels),
    sentence: (model, { labels }) => fill(strings.saidList, { model, labels: named(labels) }),
    more: ({ probabilities }) => [element("ul", { class: "bars" }, ...probabilities.slice(0, LABELS_SHOWN).map(bar))],
    given: ({ labels }) => labels,
    saying: named,
    correct: anyOf,
    effect: "effectLabels",
    full: 2,
  },
  number: {
    short: ({ value }) => decimal(value),
    sentence: (model, { value }) => fill(strings.saidNumber, { model, value: decimal(value) }),
    more: ({ text }) => (text ? [element("p", {}, text)] : []),
    given: ({ value }) => value,
    saying: decimal,
    correct: aNumber,
    effect: "effectNumber",
    full: 0,
  },
};

// Several answers by name, each in its own view.
function viewOfHeads(views) {
  const each = Object.entries(views).map(([head, view]) => [head, VIEWS[view]]);
  return {
    sentence: (model, answer) =>
      each.map(([head, view]) => view.sentence(fill(strings.headOf, { model, head }), answer[head])).join(" "),
    parts: (answer) =>
      each.map(([head, view]) => element("section", { class: "head", "aria-label": head }, element("h3", {}, head), ...parts(view, answer[head]))),
    explained: ({ head, whole }) => {
      const view = VIEWS[views[head]];
      return { ...view, title: fill(strings.headAnswer, { head, answer: view.short(whole) }) };
    },
  };
}

const viewOf = ({ view, views }) => VIEWS[view] ?? viewOfHeads(views);
const parts = (view, answer) => view.parts?.(answer) ?? [element("p", { class: "label" }, view.short(answer)), ...view.more(answer)];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function card({ name, model, standard, view, answer, milliseconds, verdict }) {
  const about = [model.variant, ...(standard ? [strings.standard] : [])].join(" · ");
  return element(
    "article",
    { class: "card", "aria-label": name },
    element("h2", {}, name),
    element("p", { class: "quiet" }, about),
    ...parts(view, answer),
    element("p", { class: "quiet" }, fill(strings.time, { time: milliseconds.toFixed(milliseconds < 10 ? 1 : 0) })),
    ...(verdict ? [judge(name, view, answer, verdict)] : []),
  );
}

// Whether the answer is right, or what is. What is said of it stands in `verdict`, for cards are made anew.
function judge(name, view, answer, verdict) {
  const made = element("div", { class: "judge", role: "group", "aria-label": fill(strings.judge, { model: name }) });
  const told = element("p", { class: "quiet", role: "status" });
  const say = async (right) => {
    try {
      await call("v1/feedback", { request_id: verdict.id, right });
      Object.assign(verdict, { state: "said", right });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      Object.assign(verdict, { state: "failed", problem: error.message });
    }
    draw();
  };
  const draw = () => {
    const thanks = verdict.state === "said" ? fill(strings.thanks, { answer: view.saying(verdict.right) }) : "";
    told.textContent = verdict.state === "failed" ? verdict.problem : thanks;
    const right = element("button", { type: "button" }, strings.isRight);
    right.addEventListener("click", () => say(view.given(answer)));
    const wrong = element("button", { type: "button", "aria-expanded": verdict.state === "wrong" }, strings.isWrong);
    wrong.addEventListener("click", () => {
      verdict.state = verdict.state === "wrong" ? "" : "wrong";
      draw();
      made.querySelector(verdict.state ? ".correction :is(select, input)" : "button + button").focus();
    });
    const row = element("div", { class: "row" }, right, wrong);
    made.replaceChildren(row, ...(verdict.state === "wrong" ? [correction(view, answer, verdict, say)] : []), told);
  };
  draw();
  return made;
}

function correction(view, answer, verdict, say) {
  const [field, read] = view.correct(answer, verdict.choices);
  const send = element("button", { type: "submit" }, strings.send);
  const form = element("form", { class: "correction" }, field, send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    say(read());
  });
  return form;
}

// What a person says instead: one of some names, any of them, or a number; each field with what it says.
function oneOf(answer, choices) {
  const options = choices.filter((choice) => choice !== answer.label).map((choice) => element("option", { value: choice }, choice));
  const select = element("select", { "aria-label": strings.itIs }, ...options);
  return [select, () => select.value];
}

function anyOf(answer, choices) {
  const boxes = choices.map((choice) => {
    const box = element("input", { type: "checkbox", value: choice });
    box.checked = answer.labels.includes(choice);
    return box;
  });
  const named = boxes.map((box) => element("label", {}, box, box.value));
  const read = () => boxes.filter((box) => box.checked).map((box) => box.value);
  return [element("fieldset", {}, element("legend", {}, strings.itIs), ...named), read];
}

function aNumber(answer) {
  const field = element("input", { type: "number", step: "any", required: "", value: answer.value, "aria-label": strings.itIs });
  return [field, () => field.valueAsNumber];
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

function explain({ given, view, explanation }) {
  const { words } = explanation;
  const { title, full, effect } = view.explained?.(explanation) ?? { ...view, title: view.short(explanation) };
  find("explanationTitle").textContent = fill(strings.explanation, { answer: title });
  const most = Math.max(full, ...words.map((word) => Math.abs(word.attribution))) || 1;
  const fields = Object.entries(given).flatMap(([field, text]) => {
    const shown = coloured(text, words.filter((word) => (word.field ?? field) === field), most);
    return field ? [element("h3", {}, nameOf(field)), shown] : [shown];
  });
  find("words").replaceChildren(...fields);
  find("effect").textContent = strings[effect];
  find("without").hidden = !words.some((word) => word.probability_without != null);
  const ranked = [...words].sort((a, b) => Math.abs(b.attribution) - Math.abs(a.attribution)).slice(0, ROWS_SHOWN);
  find("wordRows").replaceChildren(...ranked.map(row));
}

// A text with each of its words in the colour of what it does.
function coloured(text, words, most) {
  // Places count whole characters, and a string here counts some of them twice.
  const characters = Array.from(text);
  const parts = [];
  let place = 0;
  for (const word of words) {
    parts.push(characters.slice(place, word.start).join(""));
    const span = element("span", { class: `word ${word.attribution < 0 ? "against" : "for"}`, title: effect(word) }, word.text);
    span.style.setProperty("--weight", Math.abs(word.attribution) / most);
    parts.push(span);
    place = word.end;
  }
  return element("p", { class: "words" }, ...parts, characters.slice(place).join(""));
}

const effect = (word) => (word.attribution < 0 ? "−" : "+") + Math.abs(word.attribution).toFixed(2);

function row(word) {
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, word.text),
    element("td", { class: "number" }, effect(word)),
    ...(word.probability_without != null ? [element("td", { class: "number" }, percent(word.probability_without))] : []),
  );
}

function speak(language) {
  strings = STRINGS[language];
  document.documentElement.lang = strings.lang;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = strings[node.dataset.text];
  nameFields();
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
find("fields").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event);
});
const remembered = localStorage.getItem("language");
speak(remembered in STRINGS ? remembered : navigator.language.startsWith("zh") ? "zh" : "en");
load().catch((error) => {
  if (!(error instanceof Problem)) throw error;
  show({ problem: error.message });
});
