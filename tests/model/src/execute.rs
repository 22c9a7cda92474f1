//! What apply does with a plan.
