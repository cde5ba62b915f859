// The page around the parts: what is announced, what is shown for a moment, what keeps its place.

/** The id of the reader whose pages are open; undefined on other pages. */
export const reader = document.body.dataset.reader;

export const quietMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Creates an element. Children are texts or elements, so texts are never read as markup. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Shows the new text of a post that is on the page. */
export function showEdit({ author_id, post_id, content, edited_at }) {
  const post = document.getElementById(`post-${author_id}-${post_id}`);
  const text = post?.querySelector(":scope > .text");
  if (!text) return;
  keepingPlace(() => {
    text.textContent = content;
    if (!edited_at) return;
    const mark = post.querySelector("h2 .edited") ?? element("span", { className: "edited" }, "edited");
    mark.title = new Date(edited_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    if (!mark.isConnected) post.querySelector("h2").append(" ", mark);
  });
}

/** Reports something to screen readers: never the text of a post. */
export function announce(text) {
  const live = document.getElementById("live");
  if (live) live.textContent = text;
}

let shown;
/** Shows a short message for some seconds, with screen readers too. */
export function toast(text, link) {
  shown?.remove();
  shown = element("div", { className: "toast" }, text);
  if (link) shown.append(" ", element("a", { href: link.href }, link.text));
  document.body.append(shown);
  announce(text);
  const own = shown;
  setTimeout(() => own.remove(), 6000);
}

/** A notice with a button that tries again. */
export function failure(text, again) {
  const notice = element("p", { className: "notice error" }, text);
  notice.setAttribute("role", "alert");
  if (again) notice.append(element("button", { type: "button", onclick: again }, "Try again"));
  return notice;
}

/** Applies a change to the page, and keeps the anchor, or the first visible post, where it is. */
export function keepingPlace(change, anchor) {
  const kept = anchor ?? firstVisible();
  const before = kept?.getBoundingClientRect().top;
  change();
  if (kept?.isConnected) scrollBy(0, kept.getBoundingClientRect().top - before);
}

/** The first post that is at least partly on the screen. */
export function firstVisible() {
  for (const post of document.querySelectorAll("article.post")) {
    if (post.getBoundingClientRect().bottom > 0) return post;
  }
  return undefined;
}

export const grouped = (number) => number.toLocaleString("en-US");
