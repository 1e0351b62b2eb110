//! What each piece may allocate: a figure that is the same on every machine, however busy.
//!
//! An allocation more for an operation fails here, and so does one less, until the budget says so: else the next one more
//! would pass. The figures are means over a run, so tables that grow now and then add fractions.

use tenure_costs::{Piece, pieces};

struct Budget {
    piece: &'static str,
    /// Allocations of an operation, a reallocation counted as one.
    allocations: f64,
    /// Their bytes.
    bytes: f64,
}

const fn budget(piece: &'static str, allocations: f64, bytes: f64) -> Budget {
    Budget { piece, allocations, bytes }
}

/// Far less than one allocation, and more than what the tables of another standard library may differ by.
const ALLOCATIONS_TOLERANCE: f64 = 0.2;
/// Of a piece that is many operations in one: a share.
const ALLOCATIONS_TOLERANCE_SHARE: f64 = 0.01;
const BYTES_TOLERANCE_SHARE: f64 = 0.05;

const BUDGETS: &[Budget] = &[
    budget("http2: unary call", 1.01, 287.0),
    budget("http2: unary call, head to decode", 11.00, 883.0),
    budget("http2: unary call, 20 at once", 1.65, 724.0),
    budget("http2: dialogue message", 0.00, 1.0),
    budget("convert: put to command", 2.00, 336.0),
    budget("convert: put's outcome to answer", 0.00, 0.0),
    budget("convert: txn of 10 puts to command", 12.00, 12855.0),
    budget("convert: txn's outcome to answer", 1.00, 1360.0),
    budget("convert: range of 1 key to read and answer", 1.00, 384.0),
    budget("convert: an event to 1000 watchers", 2000.00, 432000.0),
    budget("codec: encode a put", 2.00, 336.0),
    budget("codec: decode a put", 0.00, 0.0),
    budget("codec: encode a txn of 10 puts", 8.00, 9079.0),
    budget("codec: decode a txn of 10 puts", 1.00, 1280.0),
    budget("codec: encode a group of 100 puts", 11.00, 77313.0),
    budget("codec: decode a group of 100 puts", 2.00, 6144.0),
    budget("codec: encode and decode a put's outcome", 0.00, 0.0),
    budget("apply: put of a new key", 3.50, 712.0),
    budget("apply: put over a key", 3.17, 452.0),
    budget("apply: delete", 4.17, 580.0),
    budget("apply: txn of 10 puts", 14.01, 9016.0),
    budget("apply: lease renewal", 2.00, 144.0),
    budget("apply: lock acquire and release", 21.34, 2055.0),
    budget("tables: run of 1 put", 30.18, 3051.0),
    budget("tables: run of 100 puts", 947.82, 176307.0),
    budget("tables: range of 1 key", 1.00, 384.0),
    budget("tables: range of 500 keys", 53.01, 264657.0),
    budget("tables: batch of 300 rows", 1204.75, 123973.0),
];

fn measure(piece: &Piece) -> (f64, f64) {
    let mut run = (piece.prepare)();
    let counted = allocation_counter::measure(&mut run);
    let each = |total: u64| total as f64 / piece.operations as f64;
    (each(counted.count_total), each(counted.bytes_total))
}

fn is_near(measured: f64, budget: f64, tolerance: f64, share: f64) -> bool {
    (measured - budget).abs() <= tolerance.max(budget * share)
}

#[test]
fn every_piece_keeps_to_its_budget_of_allocations() {
    let mut wrong = Vec::new();
    let mut lines = Vec::new();
    for piece in pieces() {
        let (allocations, bytes) = measure(&piece);
        lines.push(format!("    budget({:?}, {allocations:.2}, {bytes:.0}.0),", piece.name));
        let budget = BUDGETS.iter().find(|budget| budget.piece == piece.name);
        let kept = budget.is_some_and(|budget| {
            is_near(allocations, budget.allocations, ALLOCATIONS_TOLERANCE, ALLOCATIONS_TOLERANCE_SHARE)
                && is_near(bytes, budget.bytes, 8.0, BYTES_TOLERANCE_SHARE)
        });
        if !kept {
            let may = budget.map_or("has no budget".into(), |budget| {
                format!("may do {:.2} allocations of {:.0} bytes", budget.allocations, budget.bytes)
            });
            wrong.push(format!("{}: {allocations:.2} allocations of {bytes:.0} bytes; it {may}", piece.name));
        }
    }
    for budget in BUDGETS {
        if !pieces().any(|piece| piece.name == budget.piece) {
            wrong.push(format!("there is no piece {:?}", budget.piece));
        }
    }
    assert!(wrong.is_empty(), "{}\nall, as BUDGETS would have them:\n{}", wrong.join("\n"), lines.join("\n"));
}
