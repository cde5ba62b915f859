//! Further calls of [`crate::Tributary`].

mod edit;
mod marker;
