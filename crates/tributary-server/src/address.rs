//! The address of a client: that of its connection, or the one that a trusted proxy states.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use tributary::config::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client for limits. It is the rightmost one in `X-Forwarded-For` that is no
/// trusted proxy, if a trusted proxy has sent the request, else the peer of the connection. `None`
/// if only trusted proxies are named.
pub(super) fn client_of(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> Option<IpAddr> {
    let is_proxy = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
    if !is_proxy(peer) {
        return Some(network_of(peer));
    }
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        // Proxies only append, so everything left of a text that is no address is doubtful too.
        let Ok(list) = value.to_str() else { return Some(network_of(peer)) };
        for text in list.rsplit(',').map(str::trim) {
            match address_in(text) {
                Some(address) if is_proxy(address) => {}
                Some(address) => return Some(network_of(address)),
                None => return Some(network_of(peer)),
            }
        }
    }
    None
}

/// An address, with or without a port.
fn address_in(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    bracketed
        .unwrap_or(text)
        .parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// The address that clients are counted for. One client may have a whole IPv6 network of 64 bits.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rightmost_address_that_is_no_proxy_is_the_client() {
        let proxies: Vec<Network> =
            ["127.0.0.1", "10.0.0.0/8"].map(|text| text.parse().unwrap()).into();
        let client = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            let client = client_of(peer.parse().unwrap(), &headers, &proxies);
            client.map(|address| address.to_string()).unwrap_or_default()
        };
        assert_eq!(client("203.0.113.1", &["198.51.100.1"]), "203.0.113.1", "not a proxy");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.2.0.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.1,10.2.0.1"]), "198.51.100.1");
        assert_eq!(client("::ffff:127.0.0.1", &["198.51.100.1:80"]), "198.51.100.1");
        assert_eq!(client("127.0.0.1", &["[2001:db8:1:2:3::4]:80"]), "2001:db8:1:2::");
        assert_eq!(client("127.0.0.1", &["1.1.1.1, unknown"]), "127.0.0.1", "unknown");
        assert_eq!(client("127.0.0.1", &[""]), "127.0.0.1", "unknown");
        assert_eq!(client("127.0.0.1", &[]), "", "a program of this machine");
        assert_eq!(client("10.0.0.1", &["10.2.0.1"]), "", "a proxy");
        assert_eq!(client("2001:db8:1:2:3::4", &[]), "2001:db8:1:2::");
    }
}
