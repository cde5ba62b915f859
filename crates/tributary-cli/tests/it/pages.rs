//! The pages for people over HTTP: who may see them, and that they can be read without scripts.

use std::fs;
use std::time::Duration;

use hyper::{Method, Request};
use serde_json::{Value, json};
use tributary::Tributary;
use tributary_server::{RouterOptions, Scope, Web};

use crate::access::protected_fleet;
use crate::support::credentials::TestCredentials;
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet};
use crate::support::http::{TestResponse, TestServer};
use crate::support::world::World;
use crate::support::{root, run};

const TEXT: &str = "<script>alert(1)</script> \"quoted\" & 'more'\n\u{5e9}\u{5dc}\u{5d5}\u{5dd} 👩‍💻";

/// Every route of the pages, and a request to it of user 1.
const ROUTES: [(&str, &str); 14] = [
    ("/", "/"),
    ("/open", "/open?user=1"),
    ("/home/{reader}", "/home/1"),
    ("/home/{reader}/open", "/home/1/open?user=2"),
    ("/home/{reader}/explain", "/home/1/explain"),
    ("/home/{reader}/following", "/home/1/following"),
    ("/home/{reader}/followers", "/home/1/followers"),
    ("/home/{reader}/mutes", "/home/1/mutes"),
    ("/home/{reader}/blocks", "/home/1/blocks"),
    ("/home/{reader}/authors/{author}", "/home/1/authors/2"),
    ("/home/{reader}/posts/{post}", "/home/1/posts/2:50"),
    ("/sign-in", ""),
    ("/sign-out", ""),
    ("/assets/{version}/{name}", ""),
];

fn options() -> RouterOptions {
    let mut options = RouterOptions::default();
    options.web = Some(Web::new(true));
    options
}

/// Opens an address as a browser does.
async fn open(server: &TestServer, path: &str, cookie: &str) -> TestResponse {
    let accept = "text/html,application/xhtml+xml,*/*;q=0.8";
    server.send(Request::get(path).header("accept", accept).header("cookie", cookie)).await
}

/// Sends a form from a page of this server.
async fn submit(server: &TestServer, path: &str, body: &str, site: &str) -> TestResponse {
    let request = Request::post(path)
        .header("accept", "text/html")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", site);
    server.send_with(request, body.to_owned().into()).await
}

#[test]
fn a_browser_that_has_signed_in_may_do_what_its_credential_may() {
    let table = fs::read_to_string(root().join("crates/tributary-server/src/web/mod.rs")).unwrap();
    let paths: Vec<&str> =
        table.split(".route(").skip(1).filter_map(|route| route.split('"').nth(1)).collect();
    assert!(paths.iter().all(|path| ROUTES.iter().any(|(route, _)| route == path)), "{paths:?}");
    let credentials = TestCredentials::new();
    let service = session(&credentials.key(&[Scope::ActAsUser, Scope::Explain]));
    let acts = session(&credentials.key(&[Scope::ActAsUser]));
    let reads = session(&credentials.key(&[Scope::ReadTimelines]));
    run(async {
        let (tributary, access, _fleet) = protected_fleet(&credentials).await;
        let mut options = options();
        options.access = access;
        let server = TestServer::start_as(tributary, options).await;
        signing_in(&server, &credentials.token(1)).await;
        let pages = ROUTES.iter().map(|(_, path)| *path).filter(|path| !path.is_empty());
        let (own, other) = (session(&credentials.token(1)), session(&credentials.token(2)));
        for path in pages {
            let anonymous = open(&server, path, "").await;
            let mut status = Vec::new();
            for cookie in [&own, &service, &other, &reads] {
                status.push(open(&server, path, cookie).await.status.as_u16());
            }
            if path.starts_with("/home/") {
                assert_eq!(anonymous.status, 401, "{path}");
                assert!(anonymous.body.contains("name=\"credential\""), "{}", anonymous.body);
                assert!(status[0] < 400 && status[1] < 400, "{path}: {status:?}");
                assert_eq!(status[2..], [404, 403], "{path}");
            }
        }
        let answer = open(&server, "/", &own).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/home/1"));
        assert_eq!(open(&server, "/", &service).await.status, 200);
        for (cookie, explains) in [(&own, true), (&service, true), (&acts, false)] {
            let home = open(&server, "/home/1", cookie).await;
            assert_eq!(home.body.contains("/home/1/explain"), explains, "{cookie}");
        }
        writing(&server, &own).await;
    });
}

fn session(credential: &str) -> String {
    format!("tributary-session={credential}")
}

async fn signing_in(server: &TestServer, token: &str) {
    let body = format!("credential={token}");
    let answer = submit(server, "/sign-in", &body, "same-origin").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/"));
    let cookie = answer.header("set-cookie");
    assert_eq!(cookie, format!("{}; HttpOnly; SameSite=Strict; Path=/", session(token)));
    for (body, site, status) in [
        ("credential=x", "same-origin", 401),
        ("other=x", "same-origin", 400),
        (&body, "cross-site", 403),
    ] {
        let refused = submit(server, "/sign-in", body, site).await;
        assert_eq!(refused.status, status, "{site}");
        assert!(!refused.header("set-cookie").contains(token));
    }
    let expired = open(server, "/home/1", &session("eyJ.e30.x")).await;
    assert_eq!(expired.status, 401);
    assert!(expired.header("set-cookie").contains("Max-Age=0"), "{expired:?}");
    // A link from another site sends no cookie, and must not end the one that the browser has.
    let without = open(server, "/home/1", "theme=dark").await;
    assert_eq!((without.status.as_u16(), without.header("set-cookie")), (401, ""));
    let out = submit(server, "/sign-out", "", "same-origin").await;
    assert!(out.status == 303 && out.header("set-cookie").contains("Max-Age=0"));
}

/// Browsers send a cookie to all ports of a host, so an operator can use both listeners.
#[test]
fn each_listener_has_a_cookie_of_its_own() {
    let credentials = TestCredentials::new();
    let key = credentials.key(&[Scope::Admin, Scope::Explain]);
    let token = credentials.token(1);
    run(async {
        let (tributary, access, _fleet) = protected_fleet(&credentials).await;
        let mut options = options();
        options.access = access;
        let (public, operators) = TestServer::start_pair(tributary, options, None).await;
        let mut cookies = Vec::new();
        for (server, credential) in [(&public, &token), (&operators, &key)] {
            let body = format!("credential={credential}");
            let answer = submit(server, "/sign-in", &body, "same-origin").await;
            assert_eq!(answer.status, 303);
            cookies.push(answer.header("set-cookie").split(';').next().unwrap().to_owned());
        }
        let both = cookies.join("; ");
        assert_eq!(open(&public, "/home/1", &both).await.status, 200);
        for path in ["/shards", "/home/1/explain?memory=off"] {
            assert_eq!(open(&operators, path, &both).await.status, 200, "{path}");
            let refused = open(&operators, path, &cookies[0]).await;
            assert_eq!((refused.status.as_u16(), refused.header("set-cookie")), (401, ""));
        }
        assert_eq!(open(&public, "/home/1", &cookies[1]).await.status, 401);
        let out = submit(&operators, "/sign-out", "", "same-origin").await;
        assert!(out.header("set-cookie").starts_with("tributary-admin-session=;"), "{out:?}");
    });
}

/// A cookie counts for reads, and for writes from own pages only.
async fn writing(server: &TestServer, own: &str) {
    let read = Request::get("/v1/users/1/feed").header("cookie", own);
    assert_eq!(server.send(read).await.status, 200);
    for (header, value, status) in [
        ("sec-fetch-site", "same-origin", 204),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("origin", "http://localhost", 204),
        ("origin", "http://localhost:81", 403),
        ("x", "", 403),
    ] {
        let request = Request::builder().method(Method::PUT).uri("/v1/users/1/following/4");
        let answer = server.send(request.header("cookie", own).header(header, value)).await;
        assert_eq!(answer.status, status, "{header}: {value}");
    }
}

#[test]
fn a_cookie_is_no_credential_without_pages() {
    let credentials = TestCredentials::new();
    run(async {
        let (tributary, access, _fleet) = protected_fleet(&credentials).await;
        let server = TestServer::start_with(tributary, access).await;
        let own = session(&credentials.token(1));
        let read = server.send(Request::get("/v1/users/1/feed").header("cookie", own)).await;
        assert_eq!(read.problem(), (401, "unauthenticated".into()));
        assert_eq!(open(&server, "/", "").await.problem(), (404, "not_found".into()));
    });
}

/// The texts of an attribute in a page.
fn attributes<'a>(page: &'a str, start: &str) -> Vec<&'a str> {
    page.split(start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

async fn world() -> (Tributary, TestFleet) {
    let mut world = World::default();
    for author in [2, 3, 4] {
        world.follow(1, author);
    }
    for n in 0..53_u64 {
        world.post(
            2 + n % 3,
            1_650_000_000_000 + i64::try_from(n).unwrap() * 1_000,
            100 + n * 7 % 53,
        );
    }
    world.posts[50].content = TEXT.into();
    let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
    fleet.load(&world).await;
    (fleet.open_for_writing().await, fleet)
}

#[test]
fn pages_are_read_in_both_directions_without_scripts() {
    run(async {
        let (tributary, _fleet) = world().await;
        let server = TestServer::start_as(tributary, options()).await;
        let all = server.get("/v1/users/1/feed?limit=100").await.json();
        let expected: Vec<String> = all["posts"].as_array().unwrap().iter().map(id_of).collect();
        let (mut path, mut found, mut pages) = ("/home/1".to_owned(), Vec::new(), Vec::new());
        while !path.is_empty() {
            let page = open(&server, &path, "").await;
            assert_eq!(page.status, 200);
            found.extend(attributes(&page.body, "id=\"post-").into_iter().map(str::to_owned));
            let next = attributes(&page.body, "rel=\"next\" href=\"");
            path = next.first().map(ToString::to_string).unwrap_or_default();
            pages.push(page.body);
        }
        assert_eq!(found, expected);
        assert!(pages.len() == 3 && pages[2].contains("That is all"), "{}", pages.len());
        let back = attributes(&pages[2], "rel=\"prev\" href=\"")[0];
        let back = open(&server, back, "").await.body;
        assert_eq!(attributes(&back, "id=\"post-"), attributes(&pages[1], "id=\"post-"));

        let author = open(&server, "/home/1/authors/3", "").await.body;
        let follow =
            "data-list=\"following\" data-user=\"3\" data-name=\"User 3\" data-on=\"true\"";
        assert!(author.contains("<h1>User 3</h1>") && author.contains(follow), "{author}");
        assert!(author.contains("data-list=\"mutes\"") && author.contains("data-list=\"blocks\""));
        let own = open(&server, "/home/1/authors/1", "").await.body;
        assert!(own.contains("<strong>3</strong> following"), "{own}");
        let followers = open(&server, "/home/3/followers", "").await.body;
        assert!(followers.contains("/home/3/authors/1") && followers.contains("data-on=\"false\""));
        let muted = open(&server, "/home/1/mutes", "").await.body;
        assert!(muted.contains("You mute no users"), "{muted}");
        let following = open(&server, "/home/1/following", "").await.body;
        assert!(following.contains("/home/1/authors/4"));
        let moved = open(&server, "/home/1/open?user=%204", "").await;
        assert_eq!((moved.status.as_u16(), moved.header("location")), (303, "/home/1/authors/4"));
        for wrong in ["/home/x", "/home/1/open?user=", "/open", "/home/1?cursor=x"] {
            let answer = open(&server, wrong, "").await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("content-type")),
                (400, "text/html; charset=utf-8")
            );
            // Programs get JSON.
            assert_eq!(server.get(wrong).await.problem().0, 400);
        }
    });
}

/// Gives handles to users, as another program does.
fn name_users(fleet: &TestFleet, users: &[(u64, &str)]) {
    let [_, folder] = fleet.source_args();
    for (user, handle) in users {
        let file = format!("{folder}/shard-{}.sqlite", user % SHARDS);
        let row = (i64::try_from(*user).unwrap(), handle);
        let file = rusqlite::Connection::open(file).unwrap();
        file.execute("INSERT INTO users (user_id, handle) VALUES (?, ?)", row).unwrap();
    }
}

async fn a_display_name_appears_while_the_server_runs(fleet: &TestFleet, server: &TestServer) {
    let before = server.get("/v1/users/1/feed?limit=100").await.json();
    assert!(before["posts"].as_array().unwrap().iter().all(|post| post["author_name"].is_null()));
    let [_, folder] = fleet.source_args();
    let file = rusqlite::Connection::open(format!("{folder}/shard-2.sqlite")).unwrap();
    file.execute("UPDATE users SET name = 'Adam <é>' WHERE user_id = 2", []).unwrap();
    let named = async || {
        let page = server.get("/v1/users/1/feed?limit=100").await.json();
        let of_adam = |post: &&Value| post["author_id"] == "2";
        let mut posts = page["posts"].as_array().unwrap().iter().filter(of_adam);
        posts.all(|post| post["author_name"] == "Adam <é>" && post["author_handle"] == "Adam")
    };
    for _ in 0..500 {
        if named().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(named().await);
    let found = server.get("/v1/users?handle=ad").await.json();
    let adam = json!({"user_id": "2", "handle": "Adam", "name": "Adam <é>"});
    assert_eq!(found["users"], json!([{"user_id": "1", "handle": "ada"}, adam]));
    let both = "<bdi>Adam &#60;é&#62;</bdi> <bdi class=\"handle\">@Adam</bdi>";
    for path in ["/home/1", "/home/1/following", "/home/1/open?user=ad"] {
        assert!(open(server, path, "").await.body.contains(both), "{path}");
    }
}

#[test]
fn users_are_found_by_the_beginning_of_their_handles() {
    run(async {
        let (tributary, fleet) = world().await;
        name_users(&fleet, &[(1, "ada"), (2, "Adam"), (3, "bob_"), (4, "bobby"), (7, "12")]);
        let server = TestServer::start_as(tributary, options()).await;
        let found = server.get("/v1/users?handle=AD").await.json();
        let user = |id: &str, handle: &str| json!({"user_id": id, "handle": handle});
        assert_eq!(found["users"], json!([user("1", "ada"), user("2", "Adam")]));
        assert_eq!(found["complete"], true);
        for (prefix, count) in [("bob_", 1), ("bob", 2), ("b%25", 0), ("bobbyx", 0), ("1", 1)] {
            let found = server.get(&format!("/v1/users?handle={prefix}")).await.json();
            assert_eq!(found["users"].as_array().unwrap().len(), count, "{prefix}");
        }
        let long = format!("/v1/users?handle={}", "x".repeat(65));
        for wrong in ["/v1/users", "/v1/users?handle=", "/v1/users?handle=a%0a", &long] {
            assert_eq!(server.get(wrong).await.problem(), (400, "invalid_query".into()), "{wrong}");
        }

        let found = open(&server, "/home/1/open?user=%40a", "").await.body;
        for part in ["2 users", "href=\"/home/1/authors/2\"", "@Adam", "value=\"a\""] {
            assert!(found.contains(part), "{part}: {found}");
        }
        for (path, moved) in [
            ("/open?user=ADAM", "/home/2"),
            ("/open?user=12", "/home/12"),
            ("/open?user=%4012", "/home/7"),
            ("/home/1/open?user=bobby", "/home/1/authors/4"),
        ] {
            let answer = open(&server, path, "").await;
            assert_eq!((answer.status.as_u16(), answer.header("location")), (303, moved));
        }
        let none = open(&server, "/open?user=%3Cb%3E", "").await.body;
        assert!(none.contains("No handle begins with “&#60;b&#62;”"), "{none}");
        let following = open(&server, "/home/1/following", "").await.body;
        assert!(following.contains("@bobby") && following.contains("<span>@ada</span>"));
        a_display_name_appears_while_the_server_runs(&fleet, &server).await;
    });
}

#[test]
fn replies_and_reposts_show_the_posts_that_they_refer_to() {
    run(async {
        let (tributary, fleet) = world().await;
        name_users(&fleet, &[(2, "adam"), (3, "bob")]);
        let server = TestServer::start_as(tributary, options()).await;
        let original = server.get("/v1/users/2/posts?limit=1").await.json()["posts"][0].clone();
        let (id, text) = (original["post_id"].as_str().unwrap(), &original["content"]);
        let text = format!("<p class=\"text\" dir=\"auto\">{}</p>", text.as_str().unwrap());
        let to = json!({"author_id": "2", "post_id": id});
        let gone = json!({"author_id": "2", "post_id": "1"});
        for body in [
            json!({"content": "yes", "reply_to": to}),
            json!({"repost_of": to}),
            json!({"content": "lost", "repost_of": gone}),
        ] {
            let stored = server.post("/v1/users/3/posts", &body.to_string(), None).await;
            assert_eq!(stored.status, 201, "{stored:?}");
        }
        let page = open(&server, "/home/1/authors/3?limit=3", "").await.body;
        let reposted =
            "<span class=\"muted\">Reposted by</span> <a href=\"/home/1/authors/3\">@bob</a>";
        let reply = format!("Reply to <a href=\"/home/1/posts/2:{id}\">@adam</a>");
        for part in [reposted, &reply, &text, "not shown here", "data-action=\"repost\""] {
            assert!(page.contains(part), "{part}: {page}");
        }
        // An answer to a repost without words is one to the other post.
        assert!(page.contains(&format!("data-action=\"reply\" data-target=\"2:{id}\"")));
        let replied = attributes(&page, "class=\"when\" href=\"/home/1/posts/3:")[2];
        let one = open(&server, &format!("/home/1/posts/3:{replied}"), "").await.body;
        assert_eq!(attributes(&one, "<article class=\"post\" id=\"").len(), 2, "{one}");
        assert_eq!(open(&server, "/home/1/posts/2:1", "").await.status, 404);
        assert_eq!(open(&server, "/home/1/posts/2", "").await.status, 400);
        // As on a home timeline, a muted author's posts are not shown.
        assert_eq!(server.send(Request::put("/v1/users/1/mutes/2")).await.status, 204);
        let page = open(&server, "/home/1/authors/3?limit=3", "").await.body;
        assert!(!page.contains(&text) && page.contains(reposted), "{page}");
    });
}

#[test]
fn an_explanation_is_a_page_with_the_figures_of_the_api() {
    run(async {
        let (tributary, _fleet) = world().await;
        let server = TestServer::start_as(tributary, options()).await;
        let second = open(&server, "/home/1?limit=7", "").await.body;
        let second = attributes(&second, "rel=\"next\" href=\"")[0].replace("&#38;", "&");
        for (page, feed) in [
            ("/home/1", "/v1/users/1/feed?explain=1".to_owned()),
            (&second, format!("{}&explain=1", second.replace("/home/1", "/v1/users/1/feed"))),
        ] {
            let page = open(&server, page, "").await.body;
            let explain = attributes(&page, "class=\"explain-link\" href=\"")[0];
            let explain = open(&server, &explain.replace("&#38;", "&"), "").await.body;
            let api = server.get(&feed).await.json();
            for part in api["explain"]["shards"].as_array().unwrap() {
                let rows = |field: &str| part[field].to_string();
                let row = format!(
                    "<th scope=\"row\">{}</th><td>{}</td><td class=\"num\">{}</td>\
                     <td class=\"num\">{} of {}</td>",
                    part["shard"].as_str().unwrap(),
                    if part["queried"] == true { "yes" } else { "no" },
                    rows("rows"),
                    rows("posts_from_memory"),
                    rows("posts"),
                );
                assert!(explain.contains(&row), "{row}: {explain}");
            }
            assert!(explain.contains("from the databases in") && explain.contains("\"scatter\""));
            assert!(!explain.contains(" style=") && !explain.contains("memory=off"));
        }
        assert_eq!(open(&server, "/home/1/explain?memory=on", "").await.status, 400);
        let both = open(&server, "/home/1/explain?memory=off", "").await.body;
        assert!(both.contains("Both pages have the same 20 posts."), "{both}");
    });
}

fn id_of(post: &serde_json::Value) -> String {
    let text = |name: &str| post[name].as_str().unwrap().to_owned();
    format!("{}-{}", text("author_id"), text("post_id"))
}

#[test]
fn operators_see_the_shards_as_a_page_and_programs_as_json() {
    let credentials = TestCredentials::new();
    let (admin, act) = (credentials.key(&[Scope::Admin]), credentials.key(&[Scope::ActAsUser]));
    let both = credentials.key(&[Scope::Admin, Scope::Explain]);
    run(async {
        let (tributary, access, _fleet) = protected_fleet(&credentials).await;
        let mut options = options();
        options.access = access;
        let server = TestServer::start_as(tributary, options).await;
        let page = open(&server, "/shards", &session(&admin)).await;
        assert_eq!(page.status, 200);
        for part in ["All 4 shards are in service.", "<svg class=\"chart\"", "posts of authors"] {
            assert!(page.body.contains(part), "{part}: {}", page.body);
        }
        assert!(!page.body.contains("<style") && !page.body.contains(" style="));
        open(&server, "/home/1?limit=7&x=1", &session(&act)).await;
        for (cookie, explains) in [(&session(&admin), false), (&session(&both), true)] {
            let page = open(&server, "/shards", cookie).await.body;
            assert!(page.contains("<td>user 1</td>"), "{page}");
            assert_eq!(page.contains("href=\"/home/1/explain?limit=7\""), explains);
        }
        assert_eq!(open(&server, "/shards", &session(&act)).await.status, 403);
        assert_eq!(open(&server, "/shards", &session(&credentials.token(1))).await.status, 403);
        assert_eq!(open(&server, "/shards", "").await.status, 401);
        let json = server.get_as("/shards", &admin).await.json();
        assert_eq!(json["shards"].as_array().unwrap().len(), 4);
    });
}

#[test]
fn pages_contain_texts_and_no_code() {
    run(async {
        let (tributary, _fleet) = world().await;
        let server = TestServer::start_as(tributary, options()).await;
        let page = open(&server, "/home/1", "").await;
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"));
        let text =
            "&#60;script&#62;alert(1)&#60;/script&#62; &#34;quoted&#34; &#38; &#39;more&#39;\n";
        assert!(page.body.contains(text), "{}", page.body);
        for code in ["<style", " style=", " onclick=", " onload=", "javascript:", "<script>"] {
            assert!(!page.body.contains(code), "{code}");
        }
        let addresses = attributes(&page.body, "src=\"").into_iter();
        for address in addresses.chain(attributes(&page.body, "href=\"")) {
            assert!(address.starts_with(['/', '#']), "{address} is elsewhere");
        }

        let script = attributes(&page.body, "src=\"")[0];
        let head = server.send(Request::get(script).header("accept-encoding", "br, gzip")).await;
        assert_eq!(head.header("content-encoding"), "gzip");
        assert_eq!(head.header("cache-control"), "public, max-age=31536000, immutable");
        let plain = server.get(script).await;
        assert!(plain.body.contains("import ") && plain.header("content-encoding").is_empty());
        assert_eq!(server.get("/assets/0/app.js").await.problem().0, 404);
    });
}
