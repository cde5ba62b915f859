//! A tail small enough for exhaustive checks: the posts of an author are the bits of a number. A
//! higher bit is a newer post.

use super::Replica;

/// The newest posts of one author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bits {
    pub(super) posts: u64,
    /// The oldest post that the tail answers for.
    pub(super) floor: u8,
    depth: u8,
    /// False only with [`Weakness::NoFloor`](super::weakness::Weakness::NoFloor): the tail then
    /// answers for all posts.
    floored: bool,
}

/// A change to one post.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Change {
    Written(u8),
    Gone(u8),
    Unknown,
}

impl Bits {
    /// The tail that a read of the newest `depth` posts returns, given all posts.
    pub(super) fn read(posts: u64, depth: u8, floored: bool) -> Self {
        let mut tail = Self { posts, floor: 0, depth, floored };
        tail.cut();
        tail
    }

    fn cut(&mut self) {
        while self.posts.count_ones() > u32::from(self.depth) {
            self.posts &= self.posts - 1;
            if self.floored {
                self.floor = u8::try_from(self.posts.trailing_zeros()).unwrap();
            }
        }
    }

    /// Whether this tail is correct for these posts.
    pub(super) fn is_of(&self, posts: u64) -> bool {
        let expected = if self.floored {
            posts >> self.floor << self.floor
        } else {
            Self::read(posts, self.depth, false).posts
        };
        self.posts == expected
    }
}

impl Replica for Bits {
    type Change = Change;

    fn apply(&mut self, change: &Change) -> bool {
        match *change {
            Change::Written(post) if post < self.floor => {}
            Change::Written(post) => self.posts |= 1 << post,
            Change::Gone(post) => self.posts &= !(1 << post),
            Change::Unknown => return false,
        }
        self.cut();
        true
    }
}
