//! Opens shards on a MariaDB or MySQL server with a configuration in code, password included:
//! `PASSWORD=... cargo run -p tributary --example config_in_code -- HOST:PORT USER DATABASE...`

use std::env;
use std::error::Error;

use tributary::config::{ServerConfig, Servers, ShardConfig, Tls};
use tributary::{Config, PageRequest, Tributary, UserId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, user, databases @ ..] = arguments.as_slice() else {
        return Err("usage: config_in_code HOST:PORT USER DATABASE...".into());
    };
    let server =
        ServerConfig::new(address, user).password(env::var("PASSWORD")?).tls(Tls::Disabled);
    // One shard for each database, in the order of `user_id % N`.
    let shard =
        |(n, database): (usize, &String)| ShardConfig::new(format!("s{n}"), "db0", database);
    let shards = databases.iter().enumerate().map(shard).collect();
    let mut config = Config::servers(Servers::new([("db0".to_owned(), server)], shards))?;
    config.memory.budget = Some(64 << 20);

    let tributary = Tributary::open(&config).await?;
    let page = tributary.home_timeline(UserId::from(1), &PageRequest::default()).await?;
    println!("{} posts, complete: {}", page.posts.len(), page.is_complete());
    tributary.close().await;
    Ok(())
}
