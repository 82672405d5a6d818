"use strict";

const at = (id) => document.getElementById(id);
const percent = (share) => (100 * share).toFixed(1) + " %";
let asked = 0;

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function bar(label, share, given) {
  const row = element("li", undefined, given ? "given" : "");
  const track = element("div", undefined, "track");
  const filled = element("div", undefined, "bar");
  filled.style.width = 100 * share + "%";
  track.setAttribute("aria-hidden", "true"); // the number beside it says the same
  track.append(filled);
  row.append(element("span", label, "name"), track, element("span", percent(share), "number"));
  return row;
}

function said(answer) {
  if ("score" in answer) return answer.score.toFixed(3);
  if ("entities" in answer) return answer.entities.map((found) => found.word + " (" + found.entity + ")").join(", ") || "no entity";
  if ("labels" in answer) return answer.labels.join(", ") || "no label";
  return answer.label;
}

function notes(answer) {
  const parts = [];
  if (typeof answer.confidence === "number") parts.push("confidence " + percent(answer.confidence));
  if (answer.interval) parts.push("interval " + answer.interval.map((end) => end.toFixed(3)).join(" to "));
  if (answer.set) parts.push("possible: " + (answer.set.join(", ") || "none"));
  if (answer.abstained) parts.push("unsure: a person should decide");
  if (answer.truncated) parts.push("the text was too long: " + answer.truncated + " tokens were cut off");
  return parts.length ? " · " + parts.join(" · ") : "";
}

function show(task, answer) {
  const article = element("article");
  const line = element("p", undefined, "answer");
  line.append(element("strong", said(answer)), element("span", notes(answer), "note"));
  article.append(element("h2", task), line);
  if (answer.probabilities) {
    const given = "labels" in answer ? answer.labels : [answer.label];
    const list = element("ul");
    list.setAttribute("role", "list");
    list.setAttribute("aria-label", "Probabilities of " + task);
    for (const [label, share] of Object.entries(answer.probabilities)) list.append(bar(label, share, given.includes(label)));
    article.append(list);
  }
  return article;
}

async function answerOf(input) {
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers.authorization = "Bearer " + at("key").value;
  const response = await fetch("predict", { method: "POST", headers, body: JSON.stringify({ inputs: [input] }) });
  if (response.status === 401) {
    at("key-field").hidden = false;
    at("key").focus();
  }
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body.predictions[0];
}

async function ask(event) {
  if (event) event.preventDefault();
  const number = ++asked;
  const second = at("second").value;
  at("problem").textContent = "";
  at("status").textContent = "Asking …";
  at("ask").setAttribute("aria-disabled", "true");
  try {
    const answers = await answerOf(second.trim() ? [at("first").value, second] : at("first").value);
    if (number !== asked) return;
    const heads = Object.entries(answers);
    at("answers").replaceChildren(...heads.map(([task, answer]) => show(task, answer)));
    const words = heads.map(([task, answer]) => task + ": " + said(answer));
    at("status").textContent = (heads.length === 1 ? "One head answers. " : heads.length + " heads answer. ") + words.join("; ");
  } catch (error) {
    if (number !== asked) return;
    at("answers").replaceChildren();
    at("status").textContent = "";
    at("problem").textContent = error instanceof TypeError ? "The server does not answer." : error.message;
  } finally {
    if (number === asked) at("ask").removeAttribute("aria-disabled");
  }
}

at("form").addEventListener("submit", ask);
at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
