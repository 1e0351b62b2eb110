//! Bars made of block characters, eight steps to a row.

/// An eighth of a row to a whole one.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The tallest a bar gets in the topmost row, so that bars below each other do not run together.
const TOP: u32 = 7;

/// How many steps a bar of this many rows has.
pub(crate) fn steps(rows: u16) -> u32 {
    u32::from(rows.max(1)) * 8 - (8 - TOP)
}

/// The character of a bar in one row, counted from the bottom.
pub(crate) fn block(level: u32, row_from_bottom: u16) -> char {
    let inside = level.saturating_sub(u32::from(row_from_bottom) * 8).min(8);
    match usize::try_from(inside) {
        Ok(0) | Err(_) => ' ',
        Ok(inside) => BLOCKS[inside - 1],
    }
}

/// How many steps `value` of `max` are; something is never drawn as nothing.
pub(crate) fn level(value: u64, max: u64, rows: u16) -> u32 {
    if value == 0 || max == 0 {
        return 0;
    }
    let scaled = u128::from(value.min(max)) * u128::from(steps(rows)) / u128::from(max);
    u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_over_rows_and_leave_a_gap_above() {
        let column = |value| (0..2).map(|row| block(level(value, 100, 2), row)).collect::<String>();
        assert_eq!(column(0), "  ");
        assert_eq!(column(1), "▁ ");
        assert_eq!(column(50), "▇ ");
        assert_eq!(column(60), "█▁");
        assert_eq!(column(100), "█▇");
        assert_eq!(column(1_000), "█▇");
    }
}
