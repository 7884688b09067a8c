//! What was found.

/// Numbers by name, in the order in which they were found.
#[derive(Debug, Default)]
pub(crate) struct Numbers(Vec<(String, f64)>);

impl Numbers {
    /// Notes a number.
    pub(crate) fn put(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    /// Prints a table, and at the end all of it in one line.
    pub(crate) fn print(&self) {
        for (name, value) in &self.0 {
            println!("{name:26} {value:10.4}");
        }
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name}={value:.4}")).collect();
        println!("{}", pairs.join(" "));
    }
}
