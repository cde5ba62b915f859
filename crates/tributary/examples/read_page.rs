//! Reads a home timeline page by page, to its end. `CONFIG` is a file as for `tributary serve`:
//! `cargo run -p tributary --example read_page -- CONFIG USER`

use std::env;
use std::error::Error;

use tributary::config::environment;
use tributary::{Config, PageRequest, Tributary, UserId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [file, user] = arguments.as_slice() else {
        return Err("usage: read_page CONFIG USER".into());
    };
    let user: UserId = user.parse()?;
    let config = Config::from_file(file.as_ref(), environment())?;
    // Reads a folder of shards even while another process owns it.
    let tributary = Tributary::open_read_only(&config).await?;

    let mut request = PageRequest::default();
    loop {
        let page = tributary.home_timeline(user, &request).await?;
        for post in &page.posts {
            println!("{} {}: {:?}", post.key.time, post.key.author, post.content);
        }
        for shard in &page.missing {
            let name = tributary.shard_name(*shard);
            eprintln!("no answer from {name}: its posts come first once it answers again");
        }
        // While a shard is missing there is always a next page; the last ones have no posts.
        let stuck = page.posts.is_empty() && !page.is_complete();
        match page.next {
            Some(next) if !stuck => request = request.from(next),
            _ => break,
        }
    }
    tributary.close().await;
    Ok(())
}
