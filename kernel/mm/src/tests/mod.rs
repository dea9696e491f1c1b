//! Tests against a platform made of a table, and a model made of pages.

mod calls;
mod fake;
mod model;
mod random;
mod sites;
mod threads;
