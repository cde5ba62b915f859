//! Which connections are closed to make room, and which bytes are counted.

use std::time::Duration;

use super::*;

fn connections(max: usize, per_address: usize) -> Arc<Connections> {
    let mut limits = Http::default();
    limits.connections_per_address = per_address;
    Connections::new((max, 2 * max), limits)
}

fn peer(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn closing(open: &OpenConnection) -> bool {
    open.0.is_closing()
}

#[test]
fn the_longest_wait_ends_first_and_working_connections_stay() {
    let all = connections(3, 10);
    let wait = |connection: &OpenConnection, since| {
        connection.0.waiting_since.store(since, Ordering::Relaxed);
    };
    let [a, b, c] = [1, 2, 3].map(|last| all.open(peer(last)).unwrap());
    let _of_a = a.0.request_arrived(Instant::now());
    wait(&b, 7);
    wait(&c, 5);
    let d = all.open(peer(4)).unwrap();
    assert_eq!([&a, &b, &c, &d].map(closing), [false, false, true, false]);
    drop(c);
    let _of_d = d.0.request_arrived(Instant::now());
    let e = all.open(peer(5)).unwrap();
    assert_eq!([&a, &b, &d, &e].map(closing), [false, true, false, false]);
    let _of_e = e.0.request_arrived(Instant::now());
    assert_eq!(all.open(peer(6)).unwrap_err(), Full::Server);
    drop((a, b));
    assert!(all.open(peer(6)).is_ok());
    let (open, ended) = all.stats();
    let ended: Vec<_> = ended.filter(|(_, count)| *count > 0).collect();
    assert_eq!((open, ended.as_slice()), (2, [("connection_limit", 2)].as_slice()));
}

#[test]
fn connections_with_streams_stay_and_have_a_bound_of_their_own() {
    let all = connections(2, 100);
    let [a, b] = [1, 2].map(|last| all.open(peer(last)).unwrap());
    let streams =
        [&a, &a, &b].map(|open| LiveExchange::new(open.0.request_arrived(Instant::now())));
    streams.iter().for_each(|stream| stream.0.answered(Instant::now()));
    let [c, _d] = [3, 4].map(|last| all.open(peer(last)).unwrap());
    assert_eq!([&a, &b, &c].map(closing), [false; 3]);
    // Four are open, as many as there may be together.
    assert_eq!(all.live.load(Ordering::Relaxed), 2);
    let _e = all.open(peer(5)).unwrap();
    assert_eq!([&a, &b, &c].map(closing), [false, false, true]);
    drop(streams);
    assert_eq!(all.live.load(Ordering::Relaxed), 0);
    let _f = all.open(peer(6)).unwrap();
    assert!(closing(&a) || closing(&b));
}

#[test]
fn one_address_takes_only_its_share_and_trusted_proxies_are_exempt() {
    let all = connections(100, 2);
    let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
    let a = all.open(peer(1)).unwrap();
    let _b = all.open(v6("::ffff:203.0.113.1")).unwrap();
    let _c = all.open(peer(1)).unwrap();
    assert!(closing(&a));
    let [d, _e, _f] = [1, 2, 3].map(|n| all.open(v6(&format!("2001:db8::{n}"))).unwrap());
    assert!(closing(&d));
    assert_eq!(all.stats().1.find(|(_, count)| *count > 0), Some(("address_limit", 2)));
    assert!(!closing(&all.open(v6("2001:db8:0:1::1")).unwrap()));
    let local: Vec<_> = (0..50).map(|_| all.open(v6("127.0.0.1")).unwrap()).collect();
    assert!(!local.iter().any(closing));
}

#[test]
fn the_oldest_answers_make_room_for_new_ones() {
    let all = connections(100, 100);
    let half = ANSWERS_BYTES_MAX / 2;
    let [old, young, new] = [1, 2, 3].map(|last| all.open(peer(last)).unwrap());
    let requests = [&old, &young, &new].map(|open| open.0.request_arrived(Instant::now()));
    requests.iter().for_each(|request| request.answered(Instant::now()));
    let [of_old, of_young, of_new] = requests;
    let held = [&of_old, &of_young].map(|request| request.hold_answer(half, false).unwrap());
    assert!(of_new.hold_answer(half, false).is_none(), "both requests are young");
    assert!(of_new.hold_answer(SMALL_ANSWER_BYTES, false).is_some());
    assert!(of_new.hold_answer(half, true).is_some());
    // As if the process had run for longer.
    let all_later = |open: &OpenConnection, at| open.0.request_at.store(at, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(MIN_AGE_MS + 50));
    all_later(&young, 10);
    let taken = of_new.hold_answer(half, false).unwrap();
    assert_eq!([&old, &young, &new].map(closing), [true, false, false]);
    drop((held, taken));
    assert_eq!(all.answers.used.load(Ordering::Relaxed), 0);
    assert!(of_new.hold_body(10) && !of_new.hold_body(BODIES_BYTES_MAX));
    of_new.answered(Instant::now());
    assert_eq!(all.bodies.used.load(Ordering::Relaxed), 0);
}

#[test]
fn a_slow_stream_is_noticed_while_its_connection_is_busy() {
    let all = connections(100, 100);
    let [slow, new] = [1, 2].map(|last| all.open(peer(last)).unwrap());
    slow.0.multiplexes();
    let stuck = slow.0.request_arrived(Instant::now());
    stuck.answered(Instant::now());
    let held = stuck.hold_answer(ANSWERS_BYTES_MAX, false).unwrap();
    drop(stuck);
    std::thread::sleep(Duration::from_millis(MIN_AGE_MS + 50));
    // Other requests of the connection are young, and one is being worked on.
    let busy = slow.0.request_arrived(Instant::now());
    let live = LiveExchange::new(Arc::clone(&busy));
    live.hold(0).unwrap();
    drop(live);
    assert_eq!(slow.0.look(), Look::Fine);
    assert_eq!(slow.0.look_at(STREAM_AGE_MAX_MS + MIN_AGE_MS), Look::Stuck);
    let of_new = new.0.request_arrived(Instant::now());
    assert!(of_new.hold_answer(10 * SMALL_ANSWER_BYTES, false).is_some());
    assert!(closing(&slow) && !closing(&new));
    drop((held, busy));
    assert_eq!(slow.0.look_at(STREAM_AGE_MAX_MS + MIN_AGE_MS), Look::Idle);
    assert_eq!(slow.0.look(), Look::Fine);
    assert_eq!(new.0.look_at(u64::MAX), Look::Fine, "HTTP/1.1 has its own timeouts");
}
