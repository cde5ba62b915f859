// The keyboard: j and k move through the posts. The reader can turn all keys off.
import { firstVisible, quietMotion } from "./page.js";

const SETTING = "keys";

const actions = {
  j: () => move(1),
  k: () => move(-1),
  n: () => focus("#compose"),
  ".": () => document.querySelector(".fresh button:not([hidden])")?.click(),
  "/": () => focus("#find"),
  "?": () => document.getElementById("help")?.showModal(),
};

export function startKeys() {
  const on = document.getElementById("keys-on");
  if (!on) return;
  on.checked = localStorage.getItem(SETTING) !== "off";
  on.onchange = () => localStorage.setItem(SETTING, on.checked ? "on" : "off");
  document.addEventListener("keydown", (event) => {
    const action = actions[event.key];
    if (!action || !on.checked || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog") || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    action();
  });
}

function focus(selector) {
  document.querySelector(selector)?.focus();
}

function move(step) {
  const posts = [...document.querySelectorAll("article.post")];
  const current = document.activeElement?.closest("article.post");
  const index = current ? posts.indexOf(current) + step : posts.indexOf(firstVisible());
  const next = posts[Math.max(index, 0)];
  if (!next) {
    document.querySelector("post-feed")?.loadOlder();
    return;
  }
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest", behavior: quietMotion ? "auto" : "smooth" });
}
