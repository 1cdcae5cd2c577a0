//! `vcuda doctor`: what was found here, and what can't be enforced and why.
//!
//! Exits with 1 if a limit would not hold here. Must only look: it starts no context, makes no control file and
//! changes nothing.

mod compute;
mod driver;
mod finding;
mod hooks;
mod limits;
mod neighbours;
mod suspend;
mod system;

use anyhow::Result;
use clap::Args;
use finding::{Finding, Level};
use serde_json::json;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Arguments of `vcuda doctor`.
#[derive(Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Findings under a title.
struct Section {
    title: &'static str,
    findings: Vec<Finding>,
}

/// What no preloaded library can hold, wherever it runs.
const BEYOND_REACH: [(&str, &str); 5] = [
    ("statically linked programs", "the loader, which brings the library in, does not run for them"),
    (
        "programs linked to musl",
        "the library needs glibc; musl's loader has no dlvsym and other symbol versions",
    ),
    ("setuid programs", "the loader ignores LD_PRELOAD for them; /etc/ld.so.preload does reach them"),
    (
        "a kernel that runs already",
        "nothing outside the driver can interrupt it; what it takes beyond the share is waited for afterwards",
    ),
    (
        "programs that talk to /dev/nvidia* themselves, or remove the preload",
        "this is a quota among cooperating programs, not a wall against an attacker",
    ),
];

impl Doctor {
    /// Examines this machine and prints the findings.
    pub fn execute(&self) -> Result<ExitCode> {
        let (driver, gpus) = driver::examine();
        let mut compute = compute::examine();
        compute.extend(neighbours::examine(&gpus));
        let sections = [
            Section { title: "Driver", findings: driver },
            Section { title: "Hooks", findings: hooks::examine() },
            Section { title: "Compute share", findings: compute },
            Section { title: "Suspending", findings: suspend::examine() },
            Section { title: "Limits", findings: limits::examine(&gpus) },
            Section { title: "This system", findings: system::examine() },
        ];
        let holds = sections.iter().all(|section| section.findings.iter().all(|f| f.level != Level::Problem));
        if self.json {
            println!("{}", as_json(&sections, holds));
        } else {
            let is_colored = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            print!("{}", as_text(&sections, holds, is_colored));
        }
        Ok(if holds { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn as_json(sections: &[Section], holds: bool) -> serde_json::Value {
    let findings: Vec<_> = sections
        .iter()
        .flat_map(|section| section.findings.iter().map(move |finding| (section.title, finding)))
        .map(|(title, finding)| {
            json!({
                "section": title,
                "level": finding.level.name(),
                "what": finding.what,
                "remedy": finding.remedy,
            })
        })
        .collect();
    let beyond: Vec<_> = BEYOND_REACH.iter().map(|(what, why)| json!({ "what": what, "why": why })).collect();
    json!({ "limits_hold": holds, "findings": findings, "beyond_reach": beyond })
}

fn as_text(sections: &[Section], holds: bool, is_colored: bool) -> String {
    const WIDTH: usize = 76;
    let mut text = String::new();
    for section in sections.iter().filter(|section| !section.findings.is_empty()) {
        text.push_str(section.title);
        text.push('\n');
        for finding in &section.findings {
            let (mark, color) = finding.level.mark();
            let mark = if is_colored { format!("\x1b[{color}m{mark}\x1b[0m") } else { mark.to_owned() };
            let mut lines = wrapped(&finding.what, WIDTH);
            if let Some(remedy) = &finding.remedy {
                lines.extend(wrapped(&format!("→ {remedy}"), WIDTH));
            }
            for (position, line) in lines.iter().enumerate() {
                let start = if position == 0 { mark.as_str() } else { " " };
                text.push_str(&format!("  {start} {line}\n"));
            }
        }
        text.push('\n');
    }
    text.push_str("Beyond the reach of a preloaded library\n");
    for (what, why) in BEYOND_REACH {
        for (position, line) in wrapped(&format!("{what}: {why}"), WIDTH).iter().enumerate() {
            text.push_str(&format!("  {} {line}\n", if position == 0 { '·' } else { ' ' }));
        }
    }
    text.push('\n');
    text.push_str(if holds { "Limits hold here.\n" } else { "Limits do not hold here: see ✗ above.\n" });
    text
}

/// `text` in lines of at most `width` characters, broken at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections() -> [Section; 2] {
        [
            Section { title: "Driver", findings: vec![Finding::good("found")] },
            Section { title: "Hooks", findings: vec![Finding::problem("cuNew leaks", "update vcuda")] },
        ]
    }

    #[test]
    fn the_report_says_what_and_what_to_do() {
        let text = as_text(&sections(), false, false);
        assert!(
            text.starts_with("Driver\n  ✓ found\n\nHooks\n  ✗ cuNew leaks\n    → update vcuda\n"),
            "{text}"
        );
        assert!(text.ends_with("Limits do not hold here: see ✗ above.\n"));
        assert!(text.lines().all(|line| line.chars().count() <= 80));
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn json_has_the_same() {
        let json = as_json(&sections(), false);
        assert_eq!(json["limits_hold"], false);
        assert_eq!(json["findings"][1]["section"], "Hooks");
        assert_eq!(json["findings"][1]["level"], "problem");
        assert_eq!(json["findings"][1]["remedy"], "update vcuda");
    }

    #[test]
    fn long_findings_are_wrapped_at_spaces() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 4), ["unbreakable"]);
    }
}
