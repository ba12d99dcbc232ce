//! What was measured, as one Markdown table.

/// What a row is held against.
pub enum Goal {
    /// The figure must be at least this.
    AtLeast(f64),
    /// The figure must be at most this.
    AtMost(f64),
    /// Shown beside the others; no goal.
    None,
}

/// One measurement.
pub struct Row {
    /// What.
    pub what: String,
    /// How many entries the fleet has.
    pub entries: String,
    /// The raw figure of the extension.
    pub ours: String,
    /// The raw figure that it is compared with.
    pub other: String,
    /// What is held against the goal, and its unit.
    pub figure: f64,
    /// The figure's unit: `×`, `ms`, …
    pub unit: &'static str,
    /// The goal.
    pub goal: Goal,
}

/// Everything that is printed.
#[derive(Default)]
pub struct Report {
    facts: Vec<(String, String)>,
    rows: Vec<Row>,
}

impl Report {
    /// Adds a line to what stands before the table.
    pub fn fact(&mut self, what: &str, value: impl Into<String>) {
        self.facts.push((what.into(), value.into()));
    }

    /// Adds a row, and shows it on the terminal at once.
    pub fn row(&mut self, row: Row) {
        super::note(&line(&row));
        self.rows.push(row);
    }

    /// Prints it all.
    pub fn print(&self) {
        for (what, value) in &self.facts {
            println!("- {what}: {value}");
        }
        println!();
        println!("| what | entries | busymate_stats | compared with | figure | goal | |");
        println!("|---|---:|---|---|---:|---:|---|");
        for row in &self.rows {
            println!("{}", line(row));
        }
    }
}

fn line(row: &Row) -> String {
    let figure = format!("{} {}", short(row.figure), row.unit);
    let (goal, verdict) = match row.goal {
        Goal::AtLeast(goal) => (format!("≥ {} {}", short(goal), row.unit), Some(row.figure >= goal)),
        Goal::AtMost(goal) => (format!("≤ {} {}", short(goal), row.unit), Some(row.figure <= goal)),
        Goal::None => (String::new(), None),
    };
    let verdict = verdict.map_or("", |met| if met { "met" } else { "**missed**" });
    format!(
        "| {} | {} | {} | {} | {figure} | {goal} | {verdict} |",
        row.what, row.entries, row.ours, row.other
    )
}

/// Three or four digits that matter, thousands apart.
pub fn short(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 100.0 => return grouped(value.round() as i64),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number with its thousands apart.
pub fn grouped(value: i64) -> String {
    let digits = value.abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}
