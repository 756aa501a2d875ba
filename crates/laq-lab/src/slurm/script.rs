//! The files of a submission.

use std::fs;
use std::path::{Path, PathBuf};

use laq_runner::files::{FileError, write_atomically};

use super::settings::Request;
use super::submission::{CANCELLED, Submission};
use crate::LabError;
use crate::launcher::{Job, LOCKED, STOPPED};
use crate::reproduce::Options;

/// Words for a shell.
pub(super) fn quoted(words: &[String]) -> String {
    let word = |word: &String| match word.is_empty() || word.contains(|c: char| !is_plain(c)) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => word.clone(),
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/._-=%:,+@".contains(c)
}

/// The script of every task.
pub(super) fn task_file(folder: &Path) -> PathBuf {
    folder.join("task.sh")
}

/// The script of the report.
pub(super) fn report_file(folder: &Path) -> PathBuf {
    folder.join("report.sh")
}

/// An error for a path that a manifest, a script or an option of sbatch cannot have.
pub(super) fn check_path(path: &Path) -> Result<(), LabError> {
    let is_bad = |text: &str| text.contains(['\t', '\n', '\\']);
    match path.to_str() {
        Some(text) if !is_bad(text) => Ok(()),
        _ => Err(LabError::Launch(format!(
            "the path {path:?} has a tab, a new line, a backslash or bytes that are not UTF-8, which the scripts of \
             Slurm cannot have: use another folder"
        ))),
    }
}

/// The scripts of a submission, and their files.
pub(super) fn scripts(
    folder: &Path,
    request: &Request,
    options: &Options,
) -> [(PathBuf, String); 2] {
    let program = request.program.display().to_string();
    let report = [vec![program], request.report.clone()].concat();
    let report = format!("#!/bin/sh\nexec {}\n", quoted(&report));
    let task = task_script(folder, request, options);
    [(task_file(folder), task), (report_file(folder), report)]
}

/// Writes the files of a submission: the manifest with configuration, run folder and name of each task,
/// the configurations, and the scripts.
pub(super) fn write(
    folder: &Path,
    out: &Path,
    jobs: &[Job],
    submission: &Submission,
    scripts: &[(PathBuf, String)],
) -> Result<(), LabError> {
    for name in ["logs", "failed", "configs"] {
        let path = folder.join(name);
        fs::create_dir_all(&path).map_err(FileError::on("make", &path))?;
    }
    let mut manifest = String::new();
    for (index, (job, task)) in jobs.iter().zip(&submission.tasks).enumerate() {
        let config = folder.join("configs").join(format!("{index}.toml"));
        let text =
            toml::to_string(&job.experiment).map_err(|error| LabError::configs(&config, error))?;
        write_atomically(&config, text.as_bytes())?;
        let run = out.join(&task.folder);
        let [config, run] = [&config, &run].map(|path| path.display());
        manifest += &format!("{config}\t{run}\t{}\n", task.name);
    }
    write_atomically(&folder.join("manifest.tsv"), manifest.as_bytes())?;
    for (path, text) in scripts {
        write_atomically(path, text.as_bytes())?;
    }
    Ok(())
}

fn task_script(folder: &Path, request: &Request, options: &Options) -> String {
    let device = options.needs.device;
    let path = |path: PathBuf| quoted(&[path.display().to_string()]);
    format!(
        r#"#!/bin/bash
# Trains the cell of one line of the manifest. On TERM, which comes before the time is over, laq saves, and the task is
# queued again until the cell is finished.
number=$SLURM_ARRAY_TASK_ID
task=${{SLURM_ARRAY_JOB_ID}}_$number
failed={failed}/$number
IFS=$'\t' read -r config run name < <(sed -n "$((number + 1))p" {manifest})
echo "$(date -u +%FT%TZ) $name: task $task on $(hostname)"
rm -f "$failed"
child=
stopping=
stop() {{
    stopping=1
    [ -z "$child" ] || kill -TERM "$child"
}}
trap stop TERM
for attempt in 1 2 3 4 5 6 7; do
    if [ -n "$stopping" ]; then
        code={STOPPED}
        break
    fi
    {program} train "$config" --resume --record-failure --run-dir "$run" --threads "${{SLURM_CPUS_PER_TASK:-1}}" \
        --device {device} --precision {precision} --progress plain &
    child=$!
    # A signal before this line did not reach it.
    [ -z "$stopping" ] || kill -TERM "$child"
    wait "$child"
    code=$?
    # A signal ends wait before the child has ended; the shell keeps the exit code of the child.
    while kill -0 "$child" 2>/dev/null; do
        wait "$child"
    done
    [ -z "$stopping" ] || {{
        wait "$child"
        code=$?
    }}
    # The signal came before laq could listen; at -1 the shell has lost the exit code.
    case $stopping/$code in
        1/143 | 1/-1) code={STOPPED} ;;
    esac
    # Another node held the run; if it failed, its sign of life expires.
    [ "$code" = {LOCKED} ] && [ -z "$stopping" ] || break
    sleep 60 &
    child=$!
    wait "$child"
done
queue_again() {{
    for attempt in 1 2 3 4 5; do
        state=$(scontrol --oneliner show job "$task") && case $state in
            *' JobState=RUNNING '*) scontrol requeue "$task" && return ;;
            # Somebody cancelled it.
            *) return 1 ;;
        esac
        sleep 3
    done
    echo "$(date -u +%FT%TZ) $name: saved, and cannot be queued again"
    echo "$code" > "$failed"
    return 1
}}
if [ "$code" = {STOPPED} ] && [ ! -e {cancelled} ]; then
    echo "$(date -u +%FT%TZ) $name: saved"
    queue_again && exit "$code"
fi
[ "$code" = 0 ] || [ "$code" = {STOPPED} ] || echo "$code" > "$failed"
exit "$code"
"#,
        failed = path(folder.join("failed")),
        manifest = path(folder.join("manifest.tsv")),
        cancelled = path(folder.join(CANCELLED)),
        program = path(request.program.clone()),
        device = device.choice,
        precision = device.precision,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a handler the program ends by the signal that the script passes on.
    #[cfg(unix)]
    #[test]
    fn a_task_that_is_stopped_before_its_program_listens_is_queued_again() {
        use std::os::unix::fs::PermissionsExt;
        use std::process::Command;

        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let program = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
            path
        };
        program(
            "scontrol",
            "echo \"$*\" >> $0.log; echo ' JobState=RUNNING '",
        );
        let request = Request {
            settings: Default::default(),
            program: program("laq", "kill -TERM $PPID; kill -TERM $$"),
            report: Vec::new(),
        };
        fs::create_dir(folder.join("failed")).expect("a folder");
        let task = program("task", "");
        let script = task_script(folder, &request, &Options::default());
        fs::write(&task, script).expect("written");
        let paths = std::env::var("PATH").expect("programs");
        let ended = Command::new(task)
            .env("PATH", format!("{}:{paths}", folder.display()))
            .envs([("SLURM_ARRAY_TASK_ID", "0"), ("SLURM_ARRAY_JOB_ID", "7")])
            .output();
        let code = ended.expect("bash starts").status.code();
        assert_eq!(code, Some(STOPPED.into()));
        let asked = fs::read_to_string(folder.join("scontrol.log")).expect("its words");
        assert!(asked.contains("requeue 7_0"), "{asked}");
        assert!(!folder.join("failed/0").exists());
    }

    #[test]
    fn words_survive_a_shell() {
        let words = ["--a=b", "it's", "", "a b", "$HOME"].map(String::from);
        assert_eq!(quoted(&words), r"--a=b 'it'\''s' '' 'a b' '$HOME'");
    }
}
