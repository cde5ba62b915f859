//! Posts, and reads the post in a follower's home timeline with a freshness token:
//! `cargo run -p tributary --example read_your_write -- FOLDER AUTHOR READER`

use std::env;
use std::error::Error;
use std::path::Path;

use tributary::{Config, IdempotencyKey, PageRequest, Tributary, UserId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, author, reader] = arguments.as_slice() else {
        return Err("usage: read_your_write FOLDER AUTHOR READER".into());
    };
    let (author, reader): (UserId, UserId) = (author.parse()?, reader.parse()?);
    let tributary = Tributary::open(&Config::embedded(Path::new(folder))).await?;
    tributary.follow(reader, author).await?;

    // The client chooses the key once per post. If the call fails, it repeats it with the same key,
    // and the post is stored once.
    let key = IdempotencyKey::new(&format!("{}-hello", author));
    let published = tributary.publish(author, "hello", key).await?;

    // Without a token, the page may be some milliseconds older than the post.
    let newest = PageRequest::default().at_least(published.freshness);
    let page = tributary.home_timeline(reader, &newest).await?;
    let found = page.posts.iter().find(|post| post.key == published.post.key);
    println!("{}", found.map_or("the post is not on the newest page", |post| &post.content));
    tributary.close().await;
    Ok(())
}
