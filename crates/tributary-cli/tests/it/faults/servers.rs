//! Servers that die, stop, refuse connections, are slow or flap.
//!
//! Pages name the missing shards in time and become complete again without a restart. Pages of
//! other servers are not affected, and neither tasks nor connections accumulate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;
use tributary::{PageRequest, Tributary, UserId};

use super::{
    ANSWERED_WITHIN, COMPLETE_WITHIN, Durations, FLAGGED_WITHIN, Site, alone, kill, launch,
    missing, newest, until_complete,
};
use crate::support::user_id;

/// An author on the first server, which has no faults.
const UNTOUCHED_AUTHOR: UserId = user_id(8);
const ROUNDS: usize = 3;

/// Reads 24 pages at the same time, so that pools and queues are in use.
async fn read_concurrently(tributary: &Tributary) {
    join_all((0..24).map(|_| newest(tributary))).await;
}

/// The duration of a page of an author on the first server, which must be complete.
async fn page_of_other_server(tributary: &Tributary) -> Duration {
    let start = Instant::now();
    let page = tributary.author_timeline(UNTOUCHED_AUTHOR, &PageRequest::default()).await.unwrap();
    assert!(page.is_complete() && page.posts.len() >= 10);
    start.elapsed()
}

async fn median_of_other_server(tributary: &Tributary) -> Duration {
    let mut times = Vec::new();
    for _ in 0..41 {
        times.push(page_of_other_server(tributary).await);
    }
    times.sort_unstable();
    times[20]
}

#[test]
fn a_killed_server_is_reported_missing_within_1_s_and_used_within_5_s_of_its_return() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        read_concurrently(&tributary).await;
        let tasks = site.tasks();
        let (mut flagged, mut recovery) =
            (Durations::of("killed: flagged"), Durations::of("killed: complete again"));
        for _ in 0..ROUNDS {
            kill(&site.servers[1]).await;
            flagged.add(until_complete(&tributary, false).await);
            let page = newest(&tributary).await;
            assert_eq!((missing(&page), page.posts.len()), (vec![1, 3], 20));
            read_concurrently(&tributary).await;
            launch(&site.servers[1]).await;
            recovery.add(until_complete(&tributary, true).await);
        }
        flagged.assert_within(FLAGGED_WITHIN);
        recovery.assert_within(COMPLETE_WITHIN);
        site.assert_no_leaks(tasks).await;
    });
}

#[test]
fn a_stopped_server_costs_half_a_deadline_until_it_is_out_of_service() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        read_concurrently(&tributary).await;
        let tasks = site.tasks();
        let (mut flagged, mut while_out, mut recovery) = (
            Durations::of("stopped: flagged"),
            Durations::of("stopped: page while it is out of service"),
            Durations::of("stopped: complete again"),
        );
        for _ in 0..ROUNDS {
            site.servers[1].signal("STOP");
            flagged.add(until_complete(&tributary, false).await);
            read_concurrently(&tributary).await;
            let start = Instant::now();
            assert_eq!(missing(&newest(&tributary).await), [1, 3]);
            while_out.add(start.elapsed());
            site.servers[1].signal("CONT");
            recovery.add(until_complete(&tributary, true).await);
        }
        flagged.assert_within(ANSWERED_WITHIN);
        while_out.assert_within(FLAGGED_WITHIN);
        recovery.assert_within(COMPLETE_WITHIN);
        site.assert_no_leaks(tasks).await;
    });
}

/// Connections that were open while the link dropped everything never work again.
#[test]
fn half_open_connections_are_closed_and_redialled() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        read_concurrently(&tributary).await;
        let tasks = site.tasks();
        let (mut flagged, mut recovery) =
            (Durations::of("half-open: flagged"), Durations::of("half-open: complete again"));
        for round in 0..ROUNDS {
            site.links[1].stall();
            flagged.add(until_complete(&tributary, false).await);
            read_concurrently(&tributary).await;
            // Each round ends at a different point of the reconnection attempts.
            sleep(Duration::from_millis(700 * round as u64)).await;
            site.links[1].restore();
            recovery.add(until_complete(&tributary, true).await);
        }
        flagged.assert_within(ANSWERED_WITHIN);
        recovery.assert_within(COMPLETE_WITHIN);
        sleep(Duration::from_secs(1)).await;
        assert!(site.links[1].clients() <= 20, "{} connections", site.links[1].clients());
        site.assert_no_leaks(tasks).await;
    });
}

#[test]
fn a_server_that_refuses_connections_at_start_is_used_once_it_accepts_them() {
    alone(async {
        let site = Site::new(2).await;
        let mut recovery = Durations::of("refused at the start: complete again");
        for round in 0..ROUNDS {
            // Round 0: a closed port. Later rounds: a port that closes each connection.
            match round {
                0 => kill(&site.servers[1]).await,
                _ => site.links[1].refuse(),
            }
            let tributary = site.open().await;
            assert_eq!(missing(&newest(&tributary).await), [1, 3]);
            match round {
                0 => launch(&site.servers[1]).await,
                _ => site.links[1].restore(),
            }
            recovery.add(until_complete(&tributary, true).await);
        }
        recovery.assert_within(COMPLETE_WITHIN);
    });
}

#[test]
fn a_slow_server_does_not_delay_pages_of_other_servers() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        read_concurrently(&tributary).await;
        let tasks = site.tasks();

        // Readers request pages of both servers during the whole test.
        let ended = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (tributary, ended) = (tributary.clone(), Arc::clone(&ended));
                tokio::spawn(async move {
                    let mut incomplete = 0;
                    while !ended.load(Ordering::Relaxed) {
                        let page = newest(&tributary).await;
                        // A post whose text is late is excluded; posts of other servers stay.
                        let others =
                            page.posts.iter().filter(|post| post.key.author.get() % 2 == 0);
                        assert!(others.count() >= 8 && missing(&page).iter().all(|n| n % 2 == 1));
                        incomplete += usize::from(!page.is_complete());
                    }
                    incomplete
                })
            })
            .collect();
        sleep(Duration::from_secs(1)).await;
        let before = median_of_other_server(&tributary).await;
        site.links[1].slow(Duration::from_millis(200));
        sleep(Duration::from_secs(3)).await;
        let slow = median_of_other_server(&tributary).await;
        // 50 bytes per second: no answer arrives in time.
        site.links[1].throttle(Some(50));
        sleep(Duration::from_secs(3)).await;
        let narrow = median_of_other_server(&tributary).await;
        println!(
            "  pages of the other server: {before:.1?}; with a slow server {slow:.1?}, {narrow:.1?}"
        );
        let most = (before * 5).max(Duration::from_millis(50));
        assert!(slow <= most && narrow <= most, "{slow:?} {narrow:?}");
        assert_eq!(missing(&newest(&tributary).await), [1, 3]);

        site.links[1].restore();
        let mut recovery = Durations::of("slow: complete again");
        recovery.add(until_complete(&tributary, true).await);
        ended.store(true, Ordering::Relaxed);
        for reader in readers {
            println!("  {} incomplete pages", reader.await.unwrap());
        }
        recovery.assert_within(COMPLETE_WITHIN);
        site.assert_no_leaks(tasks).await;
    });
}

#[test]
fn a_flapping_server_leaks_nothing() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        read_concurrently(&tributary).await;
        let (tasks, before) = (site.tasks(), median_of_other_server(&tributary).await);
        let ended = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (tributary, ended) = (tributary.clone(), Arc::clone(&ended));
                tokio::spawn(async move {
                    let mut pages = (0, 0);
                    while !ended.load(Ordering::Relaxed) {
                        match newest(&tributary).await.is_complete() {
                            true => pages.0 += 1,
                            false => pages.1 += 1,
                        }
                        page_of_other_server(&tributary).await;
                        sleep(Duration::from_millis(5)).await;
                    }
                    pages
                })
            })
            .collect();
        let half = Duration::from_millis(500);
        for _ in 0..4 {
            // A page waits during so short a stop; it does not wait for a closed connection.
            site.servers[1].signal("STOP");
            sleep(half).await;
            site.servers[1].signal("CONT");
            sleep(half).await;
            site.links[1].refuse();
            sleep(half).await;
            site.links[1].restore();
            sleep(half).await;
        }
        let mut recovery = Durations::of("flapping: complete again");
        recovery.add(until_complete(&tributary, true).await);
        // Pages stay complete.
        for _ in 0..100 {
            assert!(newest(&tributary).await.is_complete());
            sleep(Duration::from_millis(10)).await;
        }
        ended.store(true, Ordering::Relaxed);
        let pages = join_all(readers).await.into_iter().map(Result::unwrap);
        let (complete, incomplete) =
            pages.fold((0, 0), |sum, pages| (sum.0 + pages.0, sum.1 + pages.1));
        println!("  {complete} complete pages, {incomplete} incomplete");
        recovery.assert_within(COMPLETE_WITHIN);
        assert!(
            median_of_other_server(&tributary).await <= (before * 5).max(Duration::from_millis(50))
        );
        site.assert_no_leaks(tasks).await;
    });
}
