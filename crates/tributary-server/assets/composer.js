// The form that publishes a post.
import { call } from "./api.js";
import { announce, element, failure, grouped, reader, toast } from "./page.js";

class PostComposer extends HTMLElement {
  connectedCallback() {
    this.max = Number(this.dataset.bytes);
    this.draft = `draft:${reader}`;
    this.text = element("textarea", { id: "compose", name: "content", rows: 3, placeholder: "What is new?" });
    this.text.setAttribute("dir", "auto");
    this.text.setAttribute("aria-describedby", "count");
    this.text.value = sessionStorage.getItem(this.draft) ?? "";
    this.count = element("output", { id: "count" });
    this.count.setAttribute("aria-live", "off");
    this.button = element("button", { className: "primary" }, "Post");
    this.problem = element("div");
    const label = element("label", { htmlFor: "compose", className: "unseen" }, "New post");
    const row = element("div", { className: "row" }, this.count, this.button);
    this.form = element("form", { className: "composer" }, label, this.text, this.problem, row);
    this.form.onsubmit = (event) => { event.preventDefault(); this.publish(); };
    this.text.oninput = () => this.changed();
    this.text.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.publish();
    };
    this.replaceChildren(this.form);
    this.changed();
  }

  changed() {
    const text = this.text.value;
    const bytes = new TextEncoder().encode(text).length;
    this.fits = bytes <= this.max && text.trim() !== "";
    this.count.textContent = `${grouped(bytes)} of ${grouped(this.max)} bytes`;
    this.count.hidden = bytes === 0;
    this.count.classList.toggle("over", bytes > this.max);
    this.button.disabled = !this.fits;
    // A new text is a new post; the same text again is the same one.
    this.key = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    if (text) sessionStorage.setItem(this.draft, text);
    else sessionStorage.removeItem(this.draft);
  }

  async publish() {
    if (!this.fits || this.busy) return;
    this.busy = true;
    this.button.disabled = true;
    this.problem.replaceChildren();
    try {
      const options = { body: { content: this.text.value }, key: this.key };
      await call("POST", `/v1/users/${reader}/posts`, options);
      this.text.value = "";
      this.changed();
      await this.shown();
    } catch (error) {
      this.problem.replaceChildren(failure(`The post is not published. ${error.message}`));
      this.button.disabled = false;
    } finally {
      this.busy = false;
    }
  }

  /** Shows the post on the own page; elsewhere says where it is. */
  async shown() {
    const own = `/home/${reader}/authors/${reader}`;
    if (location.pathname === own) {
      await document.querySelector("post-feed").showAbove(this);
      announce("Your post is published.");
    } else {
      toast("Your post is published.", { href: own, text: "Show it" });
    }
  }
}

customElements.define("post-composer", PostComposer);
