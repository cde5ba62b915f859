//! A server that dies while memory holds its posts: the posts stay on the pages, and the pages
//! list its shards as stale.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tributary::{Page, Tributary};

use super::{ACCOUNT, COMPLETE_WITHIN, Site, alone, kill, launch, newest};

/// The longest time until pages list the dead server's shards as stale: the lease of its log and
/// the detection of its death.
const STALE_WITHIN: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(20);

/// Reads until a page satisfies `wanted`. Every page until then must be complete.
async fn until(tributary: &Tributary, within: Duration, wanted: impl Fn(&Page) -> bool) -> Page {
    let start = Instant::now();
    loop {
        let page = newest(tributary).await;
        assert!(page.is_complete(), "{:?} are missing", page.missing);
        if wanted(&page) {
            println!("  after {:.1?}", start.elapsed());
            return page;
        }
        assert!(start.elapsed() < within, "{page:?}");
        sleep(PAUSE).await;
    }
}

#[test]
fn posts_of_a_dead_server_are_served_from_memory_and_reported_stale() {
    alone(async {
        let site = Site::new(2).await;
        let account = format!("'{ACCOUNT}'@'127.0.0.1'");
        let grant = format!("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {account}");
        for server in &site.servers {
            server.execute(std::slice::from_ref(&grant)).await;
        }
        let mut config = site.config();
        config.memory.budget = Some(64 << 20);
        let tributary = Tributary::open(&config).await.unwrap();
        let before = until(&tributary, COMPLETE_WITHIN * 6, |page| page.waves == 0).await;
        assert!(before.stale.is_empty());

        kill(&site.servers[1]).await;
        let page = until(&tributary, STALE_WITHIN, |page| !page.stale.is_empty()).await;
        let stale: Vec<u16> = page.stale.keys().map(|shard| shard.get()).collect();
        assert_eq!((stale, &page.posts), (vec![1, 3], &before.posts));

        launch(&site.servers[1]).await;
        until(&tributary, COMPLETE_WITHIN * 6, |page| page.stale.is_empty()).await;
        let (server, database) = &site.fleet.databases[1];
        let sql = format!("INSERT INTO {database}.tweets VALUES (77, 9, 'back again', 99999)");
        server.execute(&[sql]).await;
        let back = |page: &Page| page.posts[0].content == "back again" && page.stale.is_empty();
        until(&tributary, COMPLETE_WITHIN * 6, back).await;
        until(&tributary, COMPLETE_WITHIN * 6, |page| page.waves == 0).await;
    });
}
