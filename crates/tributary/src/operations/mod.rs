//! Further calls of [`crate::Tributary`].

mod edit;
