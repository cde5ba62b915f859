//! Prints a home timeline, page by page, to its end. Usage:
//! `cargo run --example fleet -- CONFIG USER`, where CONFIG is a file for `tributary serve`.

use std::env;
use std::error::Error;

use tributary::config::environment;
use tributary::internal::{Access, parse_id};
use tributary::{Config, PageRequest, Tributary, UserId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let (Some(file), Some(user)) = (arguments.next(), arguments.next()) else {
        return Err("usage: fleet CONFIG USER".into());
    };
    let user =
        user.to_str().and_then(parse_id).map(UserId).ok_or("USER must be a decimal number")?;
    let config = Config::from_file(file.as_ref(), environment())?;
    // `Access::Read` can open a folder of shards while another process owns it.
    let tributary = Tributary::open_with(&config, Access::Read).await?;

    let mut request = PageRequest::default();
    loop {
        let page = tributary.home_timeline(user, &request).await?;
        for post in &page.posts {
            println!("{} {}: {:?}", post.key.time, post.key.author, post.content);
        }
        for shard in &page.missing {
            let name = tributary.fleet().shard_name(*shard);
            eprintln!("shard {name} does not answer; its posts come first when it returns");
        }
        // While a shard is missing, `next` is never `None`: stop at the first empty page.
        let stuck = page.posts.is_empty() && !page.is_complete();
        match page.next {
            Some(next) if !stuck => request.cursor = next,
            _ => return Ok(()),
        }
    }
}
