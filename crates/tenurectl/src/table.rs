//! Tables for people: columns as wide as their widest cell, two blanks between them, nothing after the last.

/// Rows under a line of titles.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(titles: &[&str]) -> Table {
        Table { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()], right: Vec::new() }
    }

    /// Numbers are compared by their ends: aligns these columns to the right.
    pub(crate) fn right(mut self, columns: &[usize]) -> Table {
        self.right = columns.to_vec();
        self
    }

    /// Adds a row; it may be shorter than the titles.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, every line ended.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, room)) in row.iter().zip(&widths).enumerate() {
                let blanks = " ".repeat(room - width(cell));
                let (before, after) = if self.right.contains(&column) { (blanks.as_str(), "") } else { ("", &*blanks) };
                line.extend([if column == 0 { "" } else { "  " }, before, cell, after]);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["KEY", "REVISION", "VALUE"]).right(&[1]);
        table.row(["a", "7", "first"].map(str::to_owned));
        table.row(["größer", "1234567890", ""].map(str::to_owned));
        table.row(["short".to_owned()]);
        assert_eq!(
            table.render(),
            "KEY       REVISION  VALUE\n\
             a                7  first\n\
             größer  1234567890\n\
             short\n"
        );
    }

    #[test]
    fn a_table_without_rows_is_its_titles() {
        assert_eq!(Table::new(&["A", "B"]).render(), "A  B\n");
    }
}
