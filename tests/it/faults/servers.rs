//! Servers that die, stop, stay away, are slow or flap: pages say so in time and are whole again
//! by themselves, the others are served as ever, and nothing piles up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;
use tributary::{PageRequest, Tributary, UserId};

use super::{
    ANSWERED, FLAGGED, Site, Times, WHOLE, alone, kill, launch, missing, newest, until_whole,
};

/// On the first server, which nothing is done to.
const THERE: UserId = UserId(8);
const ROUNDS: usize = 3;

/// Reads at the same time, as a busy site does, so that pools and queues are filled.
async fn crowd(tributary: &Tributary) {
    join_all((0..24).map(|_| newest(tributary))).await;
}

/// How long a page of an author on the first server takes; it is complete.
async fn others_page(tributary: &Tributary) -> Duration {
    let start = Instant::now();
    let page = tributary.author_timeline(THERE, &PageRequest::default()).await;
    assert!(page.is_complete() && page.posts.len() >= 10);
    start.elapsed()
}

async fn median_of_others(tributary: &Tributary) -> Duration {
    let mut times = Vec::new();
    for _ in 0..41 {
        times.push(others_page(tributary).await);
    }
    times.sort_unstable();
    times[20]
}

#[test]
fn a_killed_server_is_named_within_a_second_and_used_within_five_of_its_return() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        crowd(&tributary).await;
        let tasks = site.tasks();
        let (mut flagged, mut whole) = (Times::of("killed: flagged"), Times::of("killed: whole"));
        for _ in 0..ROUNDS {
            kill(&site.servers[1]).await;
            flagged.add(until_whole(&tributary, false).await);
            let page = newest(&tributary).await;
            assert_eq!((missing(&page), page.posts.len()), (vec![1, 3], 20));
            crowd(&tributary).await;
            launch(&site.servers[1]).await;
            whole.add(until_whole(&tributary, true).await);
        }
        flagged.hold(FLAGGED);
        whole.hold(WHOLE);
        site.assert_no_pile(tasks).await;
    });
}

#[test]
fn a_stopped_server_costs_half_a_deadline_until_it_is_left_alone() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        crowd(&tributary).await;
        let tasks = site.tasks();
        let (mut flagged, mut left, mut whole) = (
            Times::of("stopped: flagged"),
            Times::of("stopped: page once it is left out"),
            Times::of("stopped: whole"),
        );
        for _ in 0..ROUNDS {
            site.servers[1].signal("STOP");
            flagged.add(until_whole(&tributary, false).await);
            crowd(&tributary).await;
            let start = Instant::now();
            assert_eq!(missing(&newest(&tributary).await), [1, 3]);
            left.add(start.elapsed());
            site.servers[1].signal("CONT");
            whole.add(until_whole(&tributary, true).await);
        }
        flagged.hold(ANSWERED);
        left.hold(FLAGGED);
        whole.hold(WHOLE);
        site.assert_no_pile(tasks).await;
    });
}

/// What was connected while nothing went through is dead for good.
#[test]
fn a_half_open_link_is_left_and_dialled_anew() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        crowd(&tributary).await;
        let tasks = site.tasks();
        let (mut flagged, mut whole) =
            (Times::of("half-open: flagged"), Times::of("half-open: whole"));
        for round in 0..ROUNDS {
            site.links[1].stall();
            flagged.add(until_whole(&tributary, false).await);
            crowd(&tributary).await;
            // At another point of the attempts to dial, each time.
            sleep(Duration::from_millis(700 * round as u64)).await;
            site.links[1].restore();
            whole.add(until_whole(&tributary, true).await);
        }
        flagged.hold(ANSWERED);
        whole.hold(WHOLE);
        sleep(Duration::from_secs(1)).await;
        assert!(site.links[1].clients() <= 20, "{} connections", site.links[1].clients());
        site.assert_no_pile(tasks).await;
    });
}

#[test]
fn a_server_that_refuses_at_the_start_is_used_when_it_is_there() {
    alone(async {
        let site = Site::new(2).await;
        let mut whole = Times::of("refused at the start: whole");
        for round in 0..ROUNDS {
            // A closed port, and one that closes each connection.
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
            whole.add(until_whole(&tributary, true).await);
        }
        whole.hold(WHOLE);
    });
}

#[test]
fn a_slow_server_harms_no_page_of_the_others() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        crowd(&tributary).await;
        let tasks = site.tasks();

        // Pages of both servers are asked for all the while.
        let ended = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (tributary, ended) = (tributary.clone(), Arc::clone(&ended));
                tokio::spawn(async move {
                    let mut incomplete = 0;
                    while !ended.load(Ordering::Relaxed) {
                        let page = newest(&tributary).await;
                        // Where a text is late, its post is left out; the others' are there.
                        let others = page.posts.iter().filter(|post| post.key.author.0 % 2 == 0);
                        assert!(others.count() >= 8 && missing(&page).iter().all(|n| n % 2 == 1));
                        incomplete += usize::from(!page.is_complete());
                    }
                    incomplete
                })
            })
            .collect();
        sleep(Duration::from_secs(1)).await;
        let before = median_of_others(&tributary).await;
        site.links[1].slow(Duration::from_millis(200));
        sleep(Duration::from_secs(3)).await;
        let slow = median_of_others(&tributary).await;
        // So narrow that no answer gets through in time.
        site.links[1].throttle(Some(50));
        sleep(Duration::from_secs(3)).await;
        let narrow = median_of_others(&tributary).await;
        println!("  others' pages: {before:.1?}; beside a slow one {slow:.1?}, {narrow:.1?}");
        let most = (before * 5).max(Duration::from_millis(50));
        assert!(slow <= most && narrow <= most, "{slow:?} {narrow:?}");
        assert_eq!(missing(&newest(&tributary).await), [1, 3]);

        site.links[1].restore();
        let mut whole = Times::of("slow: whole");
        whole.add(until_whole(&tributary, true).await);
        ended.store(true, Ordering::Relaxed);
        for reader in readers {
            println!("  {} incomplete pages", reader.await.unwrap());
        }
        whole.hold(WHOLE);
        site.assert_no_pile(tasks).await;
    });
}

#[test]
fn a_flapping_server_leaves_no_trace() {
    alone(async {
        let site = Site::new(2).await;
        let tributary = site.open().await;
        crowd(&tributary).await;
        let (tasks, before) = (site.tasks(), median_of_others(&tributary).await);
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
                        others_page(&tributary).await;
                        sleep(Duration::from_millis(5)).await;
                    }
                    pages
                })
            })
            .collect();
        let half = Duration::from_millis(500);
        for _ in 0..4 {
            // A page waits for so short a stop; not so for a server that is not there.
            site.servers[1].signal("STOP");
            sleep(half).await;
            site.servers[1].signal("CONT");
            sleep(half).await;
            site.links[1].refuse();
            sleep(half).await;
            site.links[1].restore();
            sleep(half).await;
        }
        let mut whole = Times::of("flapping: whole");
        whole.add(until_whole(&tributary, true).await);
        // And it stays so.
        for _ in 0..100 {
            assert!(newest(&tributary).await.is_complete());
            sleep(Duration::from_millis(10)).await;
        }
        ended.store(true, Ordering::Relaxed);
        let pages = join_all(readers).await.into_iter().map(Result::unwrap);
        let (complete, incomplete) =
            pages.fold((0, 0), |sum, pages| (sum.0 + pages.0, sum.1 + pages.1));
        println!("  {complete} complete pages, {incomplete} incomplete");
        whole.hold(WHOLE);
        assert!(median_of_others(&tributary).await <= (before * 5).max(Duration::from_millis(50)));
        site.assert_no_pile(tasks).await;
    });
}
