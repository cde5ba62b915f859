// Replies, reposts and edits: a dialog with the post that they refer to, and a composer.
import { element } from "./page.js";

const TITLES = {
  reply: (name) => `Reply to ${name}`,
  repost: (name) => `Repost the post of ${name}`,
  edit: () => "Edit your post",
};

/** The name and the text that a reply or a repost of this post refers to. */
function shown(post, target) {
  const own = post.querySelector(":scope > .text");
  const isOwn = target === `${post.dataset.author}:${post.dataset.post}`;
  const part = isOwn || own ? post : post.querySelector(".original");
  const name = part.querySelector("h2 a:not(.when), .by a")?.textContent ?? "";
  const text = isOwn ? own : part.querySelector(".text");
  return { name, text: text?.textContent ?? "" };
}

function open(kind, button) {
  const dialog = document.getElementById("respond");
  const { name, text } = shown(button.closest("article"), button.dataset.target);
  dialog.querySelector("h2").textContent = TITLES[kind](name);
  const words = element("p", { className: "text" }, text);
  words.setAttribute("dir", "auto");
  dialog.querySelector(".original").replaceChildren(words);
  dialog.querySelector(".original").hidden = text === "" || kind === "edit";
  const composer = document.createElement("post-composer");
  Object.assign(composer.dataset, { bytes: dialog.dataset.bytes, kind, target: button.dataset.target });
  if (kind === "edit") composer.dataset.text = text;
  dialog.querySelector(".form").replaceChildren(composer);
  dialog.showModal();
  composer.text.focus();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action=reply], [data-action=repost], [data-action=edit]");
  if (button) open(button.dataset.action, button);
});
