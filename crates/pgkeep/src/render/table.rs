//! Plain text tables: a head, columns as wide as they need, numbers to the right.

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table in the making.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a name that begins with `>` is set to the right.
    pub fn new<const N: usize>(columns: [&str; N]) -> Table {
        let column = |name: &str| match name.strip_prefix('>') {
            Some(name) => (name.to_owned(), Align::Right),
            None => (name.to_owned(), Align::Left),
        };
        Table {
            columns: columns.into_iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; an empty cell shows as `-`.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "a cell per column");
        let cells = cells
            .into_iter()
            .map(|cell| if cell.is_empty() { "-".to_owned() } else { cell });
        self.rows.push(cells.collect());
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each ended by a line feed and without trailing blanks.
    pub fn render(&self) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                self.rows
                    .iter()
                    .map(|row| width(&row[at]))
                    .chain([width(&self.columns[at].0)])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let head: Vec<String> = self.columns.iter().map(|(name, _)| name.to_uppercase()).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, align)), wide) in row.iter().zip(&self.columns).zip(&widths) {
                let blanks = " ".repeat(wide - width(cell));
                match align {
                    Align::Left => line.push_str(&format!("{cell}{blanks}  ")),
                    Align::Right => line.push_str(&format!("{blanks}{cell}  ")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let mut table = Table::new(["name", ">bytes", "note"]);
        table.row(["läden".into(), "7".into(), String::new()]);
        table.row(["x".into(), "12345678".into(), "seen".into()]);
        assert_eq!(
            table.render(),
            "NAME      BYTES  NOTE\nläden         7  -\nx      12345678  seen\n"
        );
    }
}
