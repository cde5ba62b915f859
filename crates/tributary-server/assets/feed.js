// A timeline: older posts while scrolling, new ones on request, and a place that survives both.
import { call, page } from "./api.js";
import { follow } from "./live.js";
import {
  announce, element, failure, firstVisible, grouped, keepingPlace, quietMotion, reader, showEdit,
  toast,
} from "./page.js";

/** Posts that one request for new posts returns, and pages of them that one click shows. */
const NEW_LIMIT = 50;
const NEW_PAGES_MAX = 4;
/** Pages that are loaded again after a reload to find the place. */
const PAGES_MAX = 50;

class PostFeed extends HTMLElement {
  connectedCallback() {
    this.list = this.querySelector(".posts");
    /** The newest page, with the parameters of this one. */
    this.newest = location.pathname + location.search;
    this.prev = this.dataset.prev;
    this.isDeep = this.dataset.deep === "true";
    this.pages = 1;
    /** Ids of posts that wait to be shown. */
    this.waiting = new Set();
    this.mustReload = false;
    this.addFreshButton();
    this.addEventListener("click", (event) => this.clicked(event));
    this.watchEnd();
    this.tellTimes();
    setInterval(() => this.tellTimes(), 30000);
    this.keepPlace();
    if (this.dataset.live && this.dataset.token && !this.isDeep) this.goLive();
    if (!this.isDeep && this.dataset.live) this.markRead();
  }

  // --- older posts --------------------------------------------------------------------------------

  watchEnd() {
    this.end = new IntersectionObserver(
      (entries) => { if (entries.some((entry) => entry.isIntersecting)) this.loadOlder(); },
      { rootMargin: "900px" },
    );
    const pager = this.querySelector(".pager.older");
    if (pager) this.end.observe(pager);
  }

  /** Appends the next page. Returns whether it did. */
  async loadOlder() {
    const pager = this.querySelector(".pager.older");
    const link = pager?.querySelector("a");
    if (!link || this.loading) return false;
    this.loading = true;
    this.end.unobserve(pager);
    this.setAttribute("aria-busy", "true");
    const bones = loading();
    pager.replaceWith(bones);
    try {
      const older = parsed(await page(link.href));
      bones.remove();
      this.addPage(older);
      this.showNotices(older.notices);
      if (older.end) {
        this.append(older.end);
        if (older.end.matches(".pager")) this.end.observe(older.end);
      }
      this.pages += 1;
      return true;
    } catch (error) {
      const again = () => { notice.replaceWith(pager); this.loading = false; this.loadOlder(); };
      const notice = failure(`Older posts could not be loaded. ${error.message}`, again);
      bones.replaceWith(notice);
      return false;
    } finally {
      this.loading = false;
      this.removeAttribute("aria-busy");
    }
  }

  /** Adds an older page, below a seam that leads to how it was read. */
  addPage({ posts, explain }) {
    const shown = this.list.lastElementChild;
    this.add(posts, (post) => this.list.append(post));
    if (!explain || !shown || this.list.lastElementChild === shown) return;
    explain.textContent = `How page ${this.pages + 1} was read`;
    shown.after(element("p", { className: "seam" }, explain));
  }

  /** Adds the posts that are not shown yet. Returns the added ones. */
  add(posts, insert) {
    const added = posts.filter((post) => !document.getElementById(post.id));
    for (const post of added) {
      this.waiting.delete(post.id);
      insert(post);
    }
    this.querySelector(":scope > .empty")?.remove();
    this.tellTimes();
    return added;
  }

  showNotices(notices) {
    const shown = this.querySelector(".notices");
    const texts = (box) => [...box.querySelectorAll(".partial, .stale")].map((one) => one.textContent);
    if (texts(shown).join() !== texts(notices).join()) keepingPlace(() => shown.replaceWith(notices));
  }

  // --- new posts ----------------------------------------------------------------------------------

  addFreshButton() {
    this.fresh = element("button", { type: "button", hidden: true });
    this.fresh.onclick = () => this.showNew();
    this.prepend(element("div", { className: "fresh" }, this.fresh));
  }

  goLive() {
    follow(this.dataset.live, this.dataset.token, {
      take: (events, gap) => this.takeNews(events, gap),
      state: (ok, error) => this.showLiveState(ok, error),
    });
  }

  takeNews(events, gap) {
    for (const event of events) this.takeEvent(event);
    if (gap) this.mustReload = true;
    if (events.length > 0 || gap) this.tellNew();
  }

  takeEvent(event) {
    if (event.type === "post") {
      const id = `post-${event.post.author_id}-${event.post.post_id}`;
      if (!document.getElementById(id)) this.waiting.add(id);
    } else if (event.type === "update") {
      showEdit(event.post);
    } else if (event.type === "delete") {
      const id = `post-${event.author_id}-${event.post_id}`;
      this.waiting.delete(id);
      this.drop(document.getElementById(id));
    } else if (["unfollow", "mute", "block"].includes(event.type)) {
      this.hide(event.user_id);
    } else {
      this.mustReload = true;
    }
  }

  /** Removes all posts of an author, those that wait too. */
  hide(author) {
    this.querySelectorAll(`[data-author="${CSS.escape(author)}"]`).forEach((post) => this.drop(post));
    for (const id of this.waiting) if (id.startsWith(`post-${author}-`)) this.waiting.delete(id);
  }

  /** Removes a post. If it has the focus, the next one gets it. */
  drop(post) {
    if (!post) return;
    const posts = [...this.list.querySelectorAll("article.post")];
    const index = posts.indexOf(post);
    const next = posts[index + 1] ?? posts[index - 1];
    const focused = post.contains(document.activeElement);
    keepingPlace(() => post.remove());
    if (focused) (next ?? document.getElementById("main")).focus({ preventScroll: true });
  }

  /** Says how many posts wait, without moving anything. */
  tellNew() {
    const count = this.waiting.size;
    const posts = count === 1 ? "1 new post" : `${grouped(count)} new posts`;
    const text = count > 0 ? posts : this.mustReload ? "New posts" : "";
    if ((this.fresh.dataset.told ?? "") !== text) announce(text && `${text}.`);
    this.fresh.dataset.told = text;
    this.fresh.hidden = text === "";
    this.fresh.textContent = text && `Show ${text.toLowerCase()}`;
    this.baseTitle ??= document.title;
    document.title = count > 0 ? `(${count}) ${this.baseTitle}` : this.baseTitle;
  }

  showLiveState(ok, error) {
    this.failed = ok ? 0 : (this.failed ?? 0) + 1;
    const shown = this.querySelector(".notices .lost");
    if (ok) {
      if (shown) keepingPlace(() => shown.remove());
    } else if (this.failed === 2 && !shown) {
      const text = `New posts do not arrive at the moment. ${error.message} This page tries again by itself.`;
      const notice = element("p", { className: "notice lost" }, text);
      keepingPlace(() => this.querySelector(".notices").append(notice));
      announce("New posts do not arrive at the moment.");
    }
  }

  /** Shows the posts that wait, above the present ones. */
  async showNew() {
    if (this.showing) return;
    this.showing = true;
    this.fresh.disabled = true;
    // What arrives from now on may be missing from the pages that are loaded.
    const [requested, mustReload] = [[...this.waiting], this.mustReload];
    this.mustReload = false;
    try {
      const added = mustReload || requested.length > NEW_LIMIT * NEW_PAGES_MAX
        ? await this.showNewest()
        : await this.showAbove();
      requested.forEach((id) => this.waiting.delete(id));
      this.tellNew();
      this.goTo(added[0]);
      announce(added.length === 1 ? "1 post added." : `${grouped(added.length)} posts added.`);
    } catch (error) {
      this.mustReload ||= mustReload;
      this.tellNew();
      toast(`New posts could not be loaded. ${error.message}`);
    } finally {
      this.showing = false;
      this.fresh.disabled = false;
    }
  }

  /** Loads the pages above the first post, until there are no more. The anchor keeps its place. */
  async showAbove(anchor) {
    let all = [];
    for (let pages = 0; pages < NEW_PAGES_MAX; pages += 1) {
      const newer = parsed(await page(limited(this.prev)));
      const added = this.addAbove(newer.posts, this.list.firstChild, anchor);
      this.prev = newer.prev;
      all = [...added, ...all];
      if (newer.posts.length < NEW_LIMIT) break;
    }
    return all;
  }

  /** Loads the newest page. If it does not reach the present posts, a gap stays between them. */
  async showNewest() {
    const newest = parsed(await page(this.newest));
    const meets = newest.posts.some((post) => document.getElementById(post.id));
    const hadPosts = this.list.querySelector("article") !== null;
    if (!meets && hadPosts && newest.posts.length > 0) this.addGap(this.prev);
    this.prev = newest.prev;
    const added = [];
    keepingPlace(() => {
      let place = this.list.firstChild;
      for (const post of newest.posts) {
        const shown = document.getElementById(post.id);
        if (shown) place = shown.nextSibling;
        else added.push(...this.add([post], (one) => this.insertArrived(one, place)));
      }
    });
    return added;
  }

  /** Inserts posts before `place`, and keeps `anchor` where it is: by default the first visible post. */
  addAbove(posts, place, anchor) {
    let added;
    const change = () => { added = this.add(posts, (post) => this.insertArrived(post, place)); };
    keepingPlace(change, anchor);
    return added;
  }

  insertArrived(post, place) {
    post.classList.add("arrived");
    this.list.insertBefore(post, place);
  }

  addGap(prev) {
    const button = element("button", { type: "button" }, "Show the posts in between");
    const gap = element("div", { className: "gap" }, button);
    button.onclick = () => this.fillGap(gap, button);
    gap.dataset.prev = prev;
    keepingPlace(() => this.list.prepend(gap));
  }

  /** Fills a gap from below, and keeps the posts below it in their place. */
  async fillGap(gap, button) {
    button.disabled = true;
    try {
      const newer = parsed(await page(limited(gap.dataset.prev)));
      const meets = newer.posts.some((post) => document.getElementById(post.id));
      const below = gap.nextElementSibling;
      gap.dataset.prev = newer.prev;
      const added = this.addAbove(newer.posts, below, below);
      if (meets || newer.posts.length === 0) {
        keepingPlace(() => gap.remove(), below);
        (added.at(-1) ?? below)?.focus?.({ preventScroll: true });
      }
      announce(`${grouped(added.length)} posts added.`);
    } catch (error) {
      toast(`The posts could not be loaded. ${error.message}`);
    } finally {
      button.disabled = false;
    }
  }

  goTo(post) {
    if (!post) return;
    post.focus({ preventScroll: true });
    post.scrollIntoView({ block: "start", behavior: quietMotion ? "auto" : "smooth" });
  }

  // --- deleting -----------------------------------------------------------------------------------

  clicked(event) {
    const link = event.target.closest(".pager.older a");
    if (link) {
      event.preventDefault();
      this.loadOlder();
    }
    const button = event.target.closest("[data-action=delete]");
    if (button) this.askToDelete(button.closest("article"), button);
  }

  askToDelete(post, button) {
    const dialog = document.getElementById("confirm");
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "yes") this.delete(post, button);
    }, { once: true });
    dialog.showModal();
  }

  async delete(post, button) {
    button.disabled = true;
    try {
      await call("DELETE", `/v1/users/${post.dataset.author}/posts/${post.dataset.post}`);
      post.focus({ preventScroll: true });
      this.drop(post);
      toast("The post is deleted.");
    } catch (error) {
      button.disabled = false;
      toast(`The post is not deleted. ${error.message}`);
    }
  }

  // --- the place, and what was read -----------------------------------------------------------------

  /** After a reload, the post that was on top of the screen is there again. */
  keepPlace() {
    history.scrollRestoration = "manual";
    const key = `place:${location.pathname}${location.search}`;
    const save = () => {
      const post = firstVisible();
      if (!post || this.restoring) return;
      const top = post.getBoundingClientRect().top;
      const place = { post: post.id, top, pages: this.pages, y: scrollY };
      sessionStorage.setItem(key, JSON.stringify(place));
    };
    addEventListener("pagehide", save);
    addEventListener("scrollend", save);
    const kind = performance.getEntriesByType("navigation")[0]?.type;
    const stored = sessionStorage.getItem(key);
    if (stored && (kind === "reload" || kind === "back_forward")) this.restore(JSON.parse(stored));
  }

  async restore({ post, top, pages, y }) {
    if (y < 1) return;
    this.restoring = true;
    const most = Math.min(pages + 2, PAGES_MAX);
    while (!document.getElementById(post) && this.pages < most && (await this.loadOlder()));
    const found = document.getElementById(post);
    if (found) scrollTo(0, scrollY + found.getBoundingClientRect().top - top);
    this.restoring = false;
  }

  /**
   * Marks where the new posts of this visit end. The server keeps the place for all devices; if the
   * shards do not store it, the browser does.
   */
  async markRead() {
    const key = `read:${reader}`;
    const { marker } = this.dataset;
    let seen = marker ? await this.marked(marker) : localStorage.getItem(key);
    const post = seen && document.getElementById(seen);
    if (post && post !== this.list.querySelector("article")) {
      const text = element("p", { className: "read-marker" }, "You have seen the posts below");
      keepingPlace(() => post.before(text));
    }
    addEventListener("pagehide", () => {
      const newest = this.list.querySelector("article");
      if (!newest || newest.id === seen || scrollY >= innerHeight) return;
      seen = newest.id;
      const { author: author_id, post: post_id } = newest.dataset;
      if (!marker) localStorage.setItem(key, seen);
      else call("PUT", marker, { body: { author_id, post_id }, keepalive: true }).catch(() => {});
    });
  }

  /** The id of the post at the reader's marker, as far as it is known. */
  async marked(path) {
    const { marker } = await call("GET", path).catch(() => ({}));
    return marker?.post && `post-${marker.post.author_id}-${marker.post.post_id}`;
  }

  /** Local times and ages, which the server cannot know. `view.rs` has the same rule. */
  tellTimes() {
    for (const time of this.querySelectorAll("time")) {
      const at = new Date(time.dateTime);
      time.querySelector(".age").textContent = age(Date.now() - at);
      if (time.dataset.local) continue;
      const local = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
      time.title = local;
      time.querySelector(".exact").textContent = local;
      time.dataset.local = "true";
    }
  }
}

function age(ms) {
  const units = [[31536000000, "y"], [86400000, "d"], [3600000, "h"], [60000, "min"], [1000, "s"]];
  const found = units.find(([unit]) => ms >= unit);
  return found ? `${Math.floor(ms / found[0])} ${found[1]}` : "now";
}

/** The parts of a timeline page that is not shown. */
function parsed(document) {
  const feed = document.querySelector("post-feed");
  return {
    posts: [...feed.querySelectorAll("article.post")],
    notices: feed.querySelector(".notices"),
    end: feed.querySelector(".pager.older, .end"),
    explain: document.querySelector(".head .explain-link"),
    prev: feed.dataset.prev,
  };
}

/** The address of a page with more posts than usual. */
function limited(path) {
  const address = new URL(path, location.href);
  address.searchParams.set("limit", NEW_LIMIT);
  return address.pathname + address.search;
}

function loading() {
  const bones = element("div", { className: "loading" });
  bones.append(...Array.from({ length: 3 }, () => element("i")));
  bones.append(element("span", { className: "unseen" }, "Loading older posts"));
  return bones;
}

customElements.define("post-feed", PostFeed);
