//! The table of `bench/insn.md`: a row of it is a row of the measurement, a column a compiler.

use std::fmt;

use anyhow::{Context, Result, ensure};

/// By how much a row may grow before it has to be recorded anew.
fn tolerance(name: &str) -> f64 {
    // Memory is allocated for new flows, from what is at hand or at length: that differs by 2 % from one build of
    // what is around the packet programs to another.
    if name.starts_with("new flow") { 0.04 } else { 0.02 }
}

/// What is recorded, and the text in front of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    text: String,
    compilers: Vec<String>,
    rows: Vec<(String, Vec<Option<f64>>)>,
}

/// How a row is to what is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// As good as none.
    None,
    /// More.
    Grown,
    /// Less.
    Shrunk,
    /// Nothing is recorded.
    New,
}

/// Whether a row is judged: those of Linux' own means are not.
pub fn is_gated(name: &str) -> bool {
    !name.starts_with("linux")
}

impl Table {
    /// Reads it.
    ///
    /// # Errors
    /// There is none, or it is not one; names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let is_of_table = |line: &&str| line.starts_with('|');
        let before = text.lines().take_while(|line| !is_of_table(line));
        let mut table = Self {
            text: before.map(|line| format!("{line}\n")).collect(),
            compilers: Vec::new(),
            rows: Vec::new(),
        };
        let lines = (1..).zip(text.lines()).filter(|(_, line)| is_of_table(line));
        for (order, (number, line)) in lines.enumerate() {
            let cells = line.strip_prefix('|').and_then(|line| line.trim_end().strip_suffix('|'));
            let cells = cells.with_context(|| format!("line {number}: a row ends with a bar"))?;
            let mut cells = cells.split('|').map(str::trim);
            let name = cells.next().unwrap_or_default().to_owned();
            match order {
                0 => table.compilers = cells.map(str::to_owned).collect(),
                1 => {}
                _ => {
                    let value = |cell: &str| match cell {
                        "" => Ok(None),
                        cell => cell.parse().map(Some),
                    };
                    let values: Vec<_> = cells
                        .map(value)
                        .collect::<Result<_, _>>()
                        .with_context(|| format!("line {number}: not a number"))?;
                    ensure!(
                        values.len() == table.compilers.len(),
                        "line {number}: {} cells for {} columns",
                        values.len(),
                        table.compilers.len()
                    );
                    ensure!(
                        !table.names().any(|other| other == name),
                        "line {number}: {name} is there twice"
                    );
                    table.rows.push((name, values));
                }
            }
        }
        ensure!(!table.compilers.is_empty(), "there is no table with a column");
        Ok(table)
    }

    /// The rows' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|(name, _)| name.as_str())
    }

    /// Whose code was counted.
    pub fn compilers(&self) -> &[String] {
        &self.compilers
    }

    /// What is recorded of a row.
    pub fn recorded(&self, compiler: &str, name: &str) -> Option<f64> {
        let column = self.compilers.iter().position(|other| other == compiler)?;
        self.rows.iter().find(|(other, _)| other == name)?.1[column]
    }

    /// How a row is to that.
    pub fn change(&self, compiler: &str, name: &str, measured: f64) -> Change {
        match self.recorded(compiler, name) {
            None => Change::New,
            Some(recorded) if measured > recorded * (1.0 + tolerance(name)) => Change::Grown,
            Some(recorded) if measured < recorded * (1.0 - tolerance(name)) => Change::Shrunk,
            Some(_) => Change::None,
        }
    }

    /// Records a row; what is not there yet becomes the last row or column.
    pub fn record(&mut self, compiler: &str, name: &str, measured: f64) {
        let column = self.compilers.iter().position(|other| other == compiler).unwrap_or_else(|| {
            self.compilers.push(compiler.to_owned());
            self.rows.iter_mut().for_each(|(_, values)| values.push(None));
            self.compilers.len() - 1
        });
        let row = self.rows.iter().position(|(other, _)| other == name).unwrap_or_else(|| {
            self.rows.push((name.to_owned(), vec![None; self.compilers.len()]));
            self.rows.len() - 1
        });
        // Tenths: what it repeats to.
        self.rows[row].1[column] = Some((measured * 10.0).round() / 10.0);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.names().map(str::len).max().unwrap_or(0);
        f.write_str(&self.text)?;
        writeln!(f, "| {:wide$} | {} |", "row", self.compilers.join(" | "))?;
        write!(f, "|{}|", "-".repeat(wide + 2))?;
        for compiler in &self.compilers {
            write!(f, "{}:|", "-".repeat(compiler.len() + 1))?;
        }
        writeln!(f)?;
        for (name, values) in &self.rows {
            write!(f, "| {name:wide$} |")?;
            for (value, compiler) in values.iter().zip(&self.compilers) {
                let value = value.map_or_else(String::new, |value| format!("{value:.1}"));
                write!(f, " {value:>width$} |", width = compiler.len())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# Instructions

Words.

| row    | rustc 1, LLVM 2 | other |
|--------|----------------:|------:|
| one    |          1000.0 |       |
| linux  |          9000.0 |  12.5 |
| new flow |               | 1000.0 |
";

    #[test]
    fn a_table_comes_back_as_it_was_read() {
        let table = Table::parse(TEXT).unwrap();
        assert_eq!(table.names().collect::<Vec<_>>(), ["one", "linux", "new flow"]);
        assert_eq!(table.recorded("rustc 1, LLVM 2", "one"), Some(1000.0));
        assert_eq!(table.recorded("other", "one"), None);
        assert_eq!(table.recorded("nobody's", "one"), None);
        assert_eq!(Table::parse(&table.to_string()).unwrap(), table);
        assert!(table.to_string().starts_with("# Instructions\n\nWords.\n\n| row "));
    }

    #[test]
    fn more_than_two_percent_is_growth_and_four_of_new_flows() {
        let table = Table::parse(TEXT).unwrap();
        for (measured, change) in [
            (1000.0, Change::None),
            (1019.9, Change::None),
            (1020.1, Change::Grown),
            (980.1, Change::None),
            (979.9, Change::Shrunk),
        ] {
            assert_eq!(table.change("rustc 1, LLVM 2", "one", measured), change, "{measured}");
        }
        for (measured, change) in [(1039.9, Change::None), (1040.1, Change::Grown), (959.9, Change::Shrunk)] {
            assert_eq!(table.change("other", "new flow", measured), change, "{measured}");
        }
        assert_eq!(table.change("other", "one", 1.0), Change::New);
        assert_eq!(table.change("nobody's", "one", 1.0), Change::New);
        assert!(is_gated("one") && !is_gated("linux"));
    }

    #[test]
    fn recording_keeps_what_others_have_recorded() {
        let mut table = Table::parse(TEXT).unwrap();
        table.record("third", "two", 7.26);
        table.record("other", "one", 3.0);
        let again = Table::parse(&table.to_string()).unwrap();
        assert_eq!(again.compilers(), ["rustc 1, LLVM 2", "other", "third"]);
        assert_eq!(again.recorded("third", "two"), Some(7.3));
        assert_eq!(again.recorded("other", "one"), Some(3.0));
        assert_eq!(again.recorded("rustc 1, LLVM 2", "one"), Some(1000.0));
        assert_eq!(again.recorded("third", "one"), None);
    }

    #[test]
    fn what_is_no_table_is_refused_with_its_line() {
        let complaint = |text: &str| format!("{:#}", Table::parse(text).unwrap_err());
        assert_eq!(complaint("words\n"), "there is no table with a column");
        assert_eq!(
            complaint("| row | a |\n|---|---|\n| x | y |\n"),
            "line 3: not a number: invalid float literal"
        );
        assert_eq!(complaint("\n| row | a |\n|---|---|\n| x | 1 | 2 |\n"), "line 4: 2 cells for 1 columns");
        assert_eq!(complaint("| row | a |\n|---|---|\n| x | 1\n"), "line 3: a row ends with a bar");
        assert_eq!(complaint("| row | a |\n|---|---|\n| x | 1 |\n| x | 2 |\n"), "line 4: x is there twice");
    }
}
