//! The table of one filesystem and workload.

use super::cell::Comparison;

// A heading over the two columns that it spans, then the columns.
const HEADINGS: [&str; 2] = [
    "  flush  threads        p50 us          ops/s         flushes/op      requests/op",
    "     ms             bare     lanefs     ratio       bare    lanefs         lanefs",
];

/// Comparisons of one filesystem and workload as text. The ratio is lanefs by bare: above 1 lanefs
/// is faster.
pub(super) fn of(comparisons: &[Comparison]) -> String {
    let Some(first) = comparisons.first() else { return String::new() };
    let (fs, workload) = (first.bare.fs, first.bare.workload);
    let mut text = format!("\n{fs}, {workload}: {}\n", workload.story());
    for heading in HEADINGS {
        text += heading;
        text.push('\n');
    }
    let mut flush_ms = None;
    for comparison in comparisons {
        // A flush time is written once.
        let shown = flush_ms.replace(comparison.bare.flush_ms) != flush_ms;
        text += &row(comparison, shown);
    }
    text
}

fn row(Comparison { bare, lanefs, ratio }: &Comparison, with_flush_time: bool) -> String {
    let flush_ms = if with_flush_time { bare.flush_ms.to_string() } else { String::new() };
    format!(
        "{flush_ms:>7}{:>9}{:>9.0}{:>11.0}{ratio:>10.2}{:>11.3}{:>10.3}{:>15.1}\n",
        bare.threads,
        bare.p50_us,
        lanefs.p50_us,
        bare.flushes_per_op,
        lanefs.flushes_per_op,
        lanefs.requests_per_op.unwrap_or_default()
    )
}
