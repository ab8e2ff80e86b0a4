//! HumanEval (Chen et al., 2021): programs completed by a model, and judged by a runner of one's own.
//!
//! leanburn executes no program. A runner is a function that is given a whole program, and tells whether it ends without an
//! error; [`run_in`] makes one of a command, which should be that of a sandbox: what a model writes may do anything.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::read_lines;
use crate::generation::GenerationConfig;

/// A function to be completed, as the published file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its name.
    pub task_id: String,
    /// The function's head and its description.
    pub prompt: String,
    /// The function's name.
    pub entry_point: String,
    /// The tests: a function `check`.
    pub test: String,
}

/// Reads problems from a `.jsonl` file.
///
/// # Errors
///
/// When the file cannot be read, or a line is no problem.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Problem>> {
    read_lines(path.as_ref(), "an object with `task_id`, `prompt`, `entry_point` and `test`")
}

impl Problem {
    /// What the model continues.
    pub fn question(&self) -> String {
        format!("{}Here is the completed function:\n\n```python\n", self.prompt)
    }

    /// The program that tells whether a continuation is right: it ends without an error when it is.
    pub fn program(&self, continuation: &str) -> String {
        let Self { prompt, test, entry_point, .. } = self;
        format!("{prompt}{continuation}\n{test}\ncheck({entry_point})\n")
    }
}

/// How a question is continued; with a temperature where several continuations are drawn.
pub fn generation() -> GenerationConfig {
    let stops = ["\nclass", "\nif", "\nprint", "\n#", "\n```"].map(str::to_owned);
    GenerationConfig::new().with_max_new_tokens(512).with_stop_texts(stops.to_vec())
}

/// The probability that one of `k` continuations is right, when `right` of `drawn` are: an estimate without bias.
///
/// # Errors
///
/// When `k` is 0, or more than were drawn, or more are right than were drawn.
pub fn pass_at_k(drawn: usize, right: usize, k: usize) -> Result<f64> {
    if k == 0 || k > drawn {
        return Err(Error::setting("k", format!("from 1 to the {drawn} that were drawn"), k));
    }
    if right > drawn {
        return Err(Error::data("right continuations", format!("at most {drawn}"), right));
    }
    // 1 - C(n - c, k) / C(n, k), as a product that does not overflow.
    let wrong = drawn - right;
    let none =
        (0..k).map(|place| wrong.saturating_sub(place) as f64 / (drawn - place) as f64).product::<f64>();
    Ok(1.0 - none)
}

/// The mean of [`pass_at_k`] over problems.
///
/// - continuations: of each problem, as many of each
/// - runner: whether a program ends without an error
///
/// # Errors
///
/// When `k` is out of its range, there is no problem, or the runner fails.
pub fn evaluate(
    problems: &[Problem],
    continuations: &[Vec<String>],
    k: usize,
    mut runner: impl FnMut(&str) -> Result<bool>,
) -> Result<f64> {
    if problems.is_empty() || problems.len() != continuations.len() {
        let expected = format!("continuations of {} problems, at least one", problems.len());
        return Err(Error::data("continuations", expected, continuations.len()));
    }
    let mut sum = 0.0;
    for (problem, continuations) in problems.iter().zip(continuations) {
        let mut right = 0;
        for continuation in continuations {
            right += usize::from(runner(&problem.program(continuation))?);
        }
        sum += pass_at_k(continuations.len(), right, k)?;
    }
    Ok(sum / problems.len() as f64)
}

/// A runner that gives each program to a command, as the last argument the path of a file with it.
///
/// The command decides what the program may do: an interpreter alone is no sandbox.
///
/// - command: a program and its arguments
/// - limit: after it the command is killed, and the program has failed
pub fn run_in(command: Vec<String>, limit: Duration) -> impl FnMut(&str) -> Result<bool> {
    move |program| {
        let [name, arguments @ ..] = &command[..] else {
            return Err(Error::setting("runner", "a command", "none"));
        };
        let folder = std::env::temp_dir();
        let folder = tempfile::tempdir_in(&folder).map_err(Error::io(&folder))?;
        let file = folder.path().join("program.py");
        std::fs::write(&file, program).map_err(Error::io(&file))?;
        let mut child = Command::new(name)
            .args(arguments)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::io(name))?;
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().map_err(Error::io(name))? {
                return Ok(status.success());
            }
            if started.elapsed() > limit {
                child.kill().map_err(Error::io(name))?;
                child.wait().map_err(Error::io(name))?;
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            task_id: "test/0".to_owned(),
            prompt: "def one():\n".to_owned(),
            entry_point: "one".to_owned(),
            test: "def check(f):\n    assert f() == 1".to_owned(),
        }
    }

    #[test]
    fn programs_are_the_runners_to_judge() {
        let drawn = vec![vec!["    return 1\n".to_owned(), "    return 2\n".to_owned()]];
        let mut seen = Vec::new();
        let share = evaluate(&[problem()], &drawn, 1, |program| {
            seen.push(program.to_owned());
            Ok(program.contains("return 1"))
        });
        assert_eq!(share.unwrap(), 0.5);
        assert_eq!(seen[0], "def one():\n    return 1\n\ndef check(f):\n    assert f() == 1\ncheck(one)\n");
        assert!(evaluate(&[problem()], &drawn, 3, |_| Ok(true)).unwrap_err().to_string().contains('k'));
        assert!(evaluate(&[], &[], 1, |_| Ok(true)).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn commands_judge_by_how_they_end() {
        let limit = Duration::from_secs(10);
        let shell = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), format!("{script} \"$0\"")];
        let mut grep = run_in(shell("grep -q yes"), limit);
        assert!(grep("yes").unwrap());
        assert!(!grep("no").unwrap());
        let mut slow = run_in(shell("sleep 60 #"), Duration::from_millis(50));
        assert!(!slow("").unwrap());
        assert!(run_in(vec![], limit)("").unwrap_err().to_string().contains("runner"));
        assert!(run_in(vec!["no such program".to_owned()], limit)("").is_err());
    }
}
