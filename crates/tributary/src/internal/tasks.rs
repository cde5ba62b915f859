//! Background tasks, and the pauses between attempts.

pub use crate::backoff::Backoff;
pub use crate::tasks::{TaskStats, Tasks, blocking};
