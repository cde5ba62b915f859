//! The freshness tokens that a checked read sends, so that it sees every write that was
//! acknowledged before. Pure.

use super::known::RunMicros;

/// A longer header value, in bytes, is not sent.
const BYTES_MAX: usize = 4_096;

/// The tokens of the latest writes on every shard.
#[derive(Debug)]
pub(super) struct Tokens {
    shards: Vec<Vec<Token>>,
}

#[derive(Debug)]
struct Token {
    /// When the write of this token was acknowledged.
    acknowledged: RunMicros,
    text: String,
}

impl Tokens {
    /// No tokens yet. User `n` is on shard `n % shards`; 0 shards count as 1.
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: (0..shards.max(1)).map(|_| Vec::new()).collect() }
    }

    /// Adds the token of a write that was sent at `sent` and is acknowledged now.
    ///
    /// Writes that were acknowledged before `sent` are earlier in the shard's log, so their tokens
    /// are dropped. At most one token per concurrent write remains.
    pub(super) fn add(&mut self, user: u32, sent: RunMicros, acknowledged: RunMicros, text: &str) {
        let shard = user as usize % self.shards.len();
        let tokens = &mut self.shards[shard];
        tokens.retain(|token| token.acknowledged >= sent && token.text != text);
        tokens.push(Token { acknowledged, text: text.to_owned() });
    }

    /// All tokens as one header value; `None` if it would exceed 4,096 bytes.
    pub(super) fn header(&self) -> Option<String> {
        let all: Vec<&str> =
            self.shards.iter().flatten().map(|token| token.text.as_str()).collect();
        let header = all.join(", ");
        (header.len() <= BYTES_MAX).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_until_a_later_write_on_its_shard_covers_it() {
        let mut tokens = Tokens::new(2);
        assert_eq!(tokens.header().as_deref(), Some(""));
        tokens.add(2, 0, 10, "a");
        tokens.add(1, 0, 10, "b");
        tokens.add(4, 5, 12, "c");
        assert_eq!(tokens.header().as_deref(), Some("a, c, b"), "a and c were under way at once");
        tokens.add(6, 11, 20, "d");
        assert_eq!(tokens.header().as_deref(), Some("c, d, b"), "c was not acknowledged by then");
        tokens.add(6, 21, 30, "e");
        assert_eq!(tokens.header().as_deref(), Some("e, b"));
        tokens.add(6, 31, 40, &"x".repeat(5_000));
        assert_eq!(tokens.header(), None);
    }
}
