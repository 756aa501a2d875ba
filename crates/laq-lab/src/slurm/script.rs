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

/// Writes the files of a submission: the manifest with configuration, run folder and name of each task,
/// the configurations, and the scripts.
pub(super) fn write(
    folder: &Path,
    out: &Path,
    jobs: &[Job],
    submission: &Submission,
    request: &Request,
    options: &Options,
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
        let [config, run] = [&config, &run].map(|path| path.display().to_string());
        if [&config, &run]
            .iter()
            .any(|path| path.contains(['\t', '\n']))
        {
            return Err(LabError::Launch(format!(
                "the path {run:?} has a tab or a new line, which a line of the manifest cannot have"
            )));
        }
        manifest += &format!("{config}\t{run}\t{}\n", task.name);
    }
    let write = |name: &str, text: &str| write_atomically(&folder.join(name), text.as_bytes());
    write("manifest.tsv", &manifest)?;
    write("task.sh", &task_script(folder, request, options))?;
    let report = [
        vec![request.program.display().to_string()],
        request.report.clone(),
    ]
    .concat();
    write(
        "report.sh",
        &format!("#!/bin/sh\nexec {}\n", quoted(&report)),
    )?;
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
    {program} train "$config" --resume --run-dir "$run" --threads "${{SLURM_CPUS_PER_TASK:-1}}" \
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

    #[test]
    fn words_survive_a_shell() {
        let words = ["--a=b", "it's", "", "a b", "$HOME"].map(String::from);
        assert_eq!(quoted(&words), r"--a=b 'it'\''s' '' 'a b' '$HOME'");
    }
}
