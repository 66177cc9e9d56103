//! What the waiting policy of the group lane promises, checked in a discrete-event simulation:
//!
//! - a lone writer is never held;
//! - tight loops travel as one group, at nearly twice the throughput of never holding;
//! - random think times and mixed populations get most of what the best rule for them would reach,
//!   and never noticeably less than never holding;
//! - loops that queue for few processors travel as one group where that is faster than never
//!   holding, and lose nothing where it is not;
//! - no group is held longer than `max(F/4, 3 R)` without trust, and `max(F, 3 R)` with it; writers
//!   that win trust to disappoint it cost no more than those that disappoint always;
//! - a writer that leaves costs one short hold; memory stays bounded.
//!
//! The model: `W` writers in a closed loop of sync and think, one serial device whose fence takes
//! `F` + 2 us for each record. The policies see exactly the calls that the lane makes. Every writer
//! has its own seeded random sequence, so runs repeat exactly and policies meet the same thinking.
//!
//! | part | what is in it |
//! | --- | --- |
//! | `writers`, `world` | the model |
//! | `throughput`, `habits`, `limits` | promises, each a test |
//! | `reference`, `any_calls` | the rule written for reading, and the policy beside it under random calls |

use fs_core::lane::policy::Nanos;

mod any_calls;
mod habits;
mod limits;
mod reference;
mod throughput;
mod world;
mod writers;

const US: Nanos = 1_000;
const MS: Nanos = 1_000_000;
const RECORD_NS: Nanos = 2 * US;
const ROUND_TRIP_NS: Nanos = 20 * US;
const CORES: usize = 2;
const TURN_NS: Nanos = 25 * US;
