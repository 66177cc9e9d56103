//! Rules that are left out.
