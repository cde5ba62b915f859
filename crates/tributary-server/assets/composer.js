// The form that publishes a post, a reply or a repost, or edits a post.
import { call } from "./api.js";
import { announce, element, failure, grouped, reader, showEdit, toast } from "./page.js";

/** For each kind: the ids' beginning, the label, the placeholder, the button, and what it is. */
const KINDS = {
  post: ["compose", "New post", "What is new?", "Post", "post"],
  reply: ["response", "Your reply", "Your reply", "Reply", "reply"],
  repost: ["response", "Your words", "Your words, if you like", "Repost", "repost"],
  edit: ["response", "The text", "", "Save", "edit"],
};

class PostComposer extends HTMLElement {
  connectedCallback() {
    this.max = Number(this.dataset.bytes);
    this.kind = this.dataset.kind ?? "post";
    const [start, name, placeholder, action, what] = KINDS[this.kind];
    const [id, count] = [start, `${start}-count`];
    this.what = what;
    this.draft = ["draft", reader, ...(this.dataset.target ? [this.kind, this.dataset.target] : [])].join(":");
    this.text = element("textarea", { id, name: "content", rows: 3, placeholder });
    this.text.setAttribute("dir", "auto");
    this.text.setAttribute("aria-describedby", count);
    this.text.value = this.dataset.text ?? sessionStorage.getItem(this.draft) ?? "";
    this.count = element("output", { id: count });
    this.count.setAttribute("aria-live", "off");
    this.button = element("button", { className: "primary" }, action);
    this.problem = element("div");
    const label = element("label", { htmlFor: id, className: "unseen" }, name);
    const row = element("div", { className: "row" }, this.count, this.button);
    if (this.kind !== "post") this.button.before(this.cancel());
    this.form = element("form", { className: "composer" }, label, this.text, this.problem, row);
    this.form.onsubmit = (event) => { event.preventDefault(); this.publish(); };
    this.text.oninput = () => this.changed();
    this.text.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.publish();
    };
    this.replaceChildren(this.form);
    this.changed();
  }

  cancel() {
    const onclick = () => this.closest("dialog").close();
    return element("button", { type: "button", className: "quiet", onclick }, "Cancel");
  }

  changed() {
    const text = this.text.value;
    const bytes = new TextEncoder().encode(text).length;
    this.fits = bytes <= this.max && (text.trim() !== "" || this.kind === "repost");
    this.count.textContent = `${grouped(bytes)} of ${grouped(this.max)} bytes`;
    this.count.hidden = bytes === 0;
    this.count.classList.toggle("over", bytes > this.max);
    this.button.disabled = !this.fits;
    // A new text is a new post; the same text again is the same one.
    this.key = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    if (this.kind === "edit") return;
    if (text) sessionStorage.setItem(this.draft, text);
    else sessionStorage.removeItem(this.draft);
  }

  async publish() {
    if (!this.fits || this.busy) return;
    this.busy = true;
    this.button.disabled = true;
    this.problem.replaceChildren();
    try {
      await (this.kind === "edit" ? this.edit() : this.create());
    } catch (error) {
      this.problem.replaceChildren(failure(`The ${this.what} is not published. ${error.message}`));
      this.button.disabled = false;
      this.busy = false;
      return;
    }
    // The post is stored: a failure from here on must not ask for it again.
    if (this.kind !== "edit") await this.shown();
    this.busy = false;
  }

  async create() {
    await call("POST", `/v1/users/${reader}/posts`, { body: this.post(), key: this.key });
    this.text.value = "";
    this.changed();
  }

  async edit() {
    const path = `/v1/users/${reader}/posts/${this.dataset.target.split(":")[1]}`;
    const edited = await call("PATCH", path, { body: { content: this.text.value } });
    this.closest("dialog").close();
    showEdit(edited);
    announce("Your edit is published.");
  }

  /** The body of the request. A repost can have no words. */
  post() {
    const content = this.text.value.trim() === "" ? {} : { content: this.text.value };
    if (this.kind === "post") return content;
    const [author_id, post_id] = this.dataset.target.split(":");
    return { ...content, [this.kind === "reply" ? "reply_to" : "repost_of"]: { author_id, post_id } };
  }

  /** Shows the post on the own page; elsewhere says where it is. */
  async shown() {
    this.closest("dialog")?.close();
    const own = `/home/${reader}/authors/${reader}`;
    const feed = document.querySelector("post-feed");
    const link = { href: own, text: "Show it" };
    if (location.pathname !== own || feed.isDeep) {
      toast(`Your ${this.what} is published.`, link);
      return;
    }
    try {
      await feed.showAbove(this.kind === "post" ? this : undefined);
      announce(`Your ${this.what} is published.`);
    } catch (error) {
      toast(`Your ${this.what} is published, but could not be loaded. ${error.message}`, link);
    }
  }
}

customElements.define("post-composer", PostComposer);
