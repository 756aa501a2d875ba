//! The quantizer of a parameter in training: the levels and scales of all groups, from step to step.

use std::ops::Range;

use rayon::prelude::*;

use crate::codebook::Scale;
use crate::error::SolveError;
use crate::granularity::Groups;
use crate::problem::{Problem, Solution};
use crate::quantizer::Quantizer;
use crate::solvers::Workspace;

/// The tasks of a parameter, if it has more spans of groups than that.
const TASKS: usize = 64;

/// What the curvature of a parameter is computed from.
#[derive(Clone, Copy, Debug)]
pub enum Curvature<'a> {
    /// Adam's second moment v: d = √v + [`CURVATURE_FLOOR`](crate::CURVATURE_FLOOR) (PAPER.md §1).
    SecondMoment(&'a [f32]),
    /// d itself; `None` means 1.
    Given(Option<&'a [f32]>),
}

impl<'a> Curvature<'a> {
    fn values(self) -> Option<&'a [f32]> {
        match self {
            Self::SecondMoment(values) => Some(values),
            Self::Given(values) => values,
        }
    }

    /// That of some of the weights.
    fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::SecondMoment(values) => Self::SecondMoment(&values[range]),
            Self::Given(values) => Self::Given(values.map(|values| &values[range])),
        }
    }
}

/// Levels and scales of a parameter, which the next step starts from.
///
/// Groups are solved in parallel on the current rayon pool; the results have the same bits for any number of
/// threads.
#[derive(Debug)]
pub struct ParameterQuantizer {
    quantizer: Quantizer,
    layout: Groups,
    /// Level indices of all groups, in order.
    levels: Vec<i8>,
    groups: Vec<Group>,
    /// What is solved one after another: successive spans of the layout.
    tasks: Vec<Task>,
}

#[derive(Debug, Default)]
struct Task {
    workspace: Workspace,
    /// The first group that failed.
    error: Option<(usize, SolveError)>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    scale: Option<Scale>,
    solution: Option<Solution>,
    scale_gradient: [f64; 2],
}

impl ParameterQuantizer {
    /// A quantizer that has solved nothing.
    pub fn new(quantizer: Quantizer, layout: Groups) -> Self {
        let tasks = layout.spans().div_ceil(spans_of_task(layout));
        Self {
            quantizer,
            layout,
            levels: vec![0; layout.weights()],
            groups: vec![Group::default(); layout.count()],
            tasks: (0..tasks).map(|_| Task::default()).collect(),
        }
    }

    /// The solver and its codebook.
    pub fn quantizer(&self) -> &Quantizer {
        &self.quantizer
    }

    /// The groups of weights with a scale.
    pub fn groups(&self) -> Groups {
        self.layout
    }

    /// The level indices of all weights; zeros before the first solve.
    pub fn levels(&self) -> &[i8] {
        &self.levels
    }

    /// The scale of each group; `None` before its first solve.
    pub fn scales(&self) -> impl ExactSizeIterator<Item = Option<Scale>> + '_ {
        self.groups.iter().map(|group| group.scale)
    }

    /// The scale of each group that has one, to be trained, with its gradient `[∂loss/∂W_p, ∂loss/∂W_n]` as of the
    /// last [`latent_gradient`](Self::latent_gradient); that is zero for methods without trained scales.
    pub fn trained_scales(&mut self) -> impl Iterator<Item = (&mut Scale, [f64; 2])> {
        let groups = self.groups.iter_mut();
        groups.filter_map(|group| Some((group.scale.as_mut()?, group.scale_gradient)))
    }

    /// The solution of each group; `None` if it has not been solved since the state was loaded.
    pub fn solutions(&self) -> impl ExactSizeIterator<Item = Option<Solution>> + '_ {
        self.groups.iter().map(|group| group.solution)
    }

    /// Restores levels and scales, which are both as many as there are weights and groups, and writes ŵ where
    /// there are scales.
    ///
    /// # Panics
    /// If the slices have other lengths.
    pub fn load(&mut self, levels: &[i8], scales: &[Option<Scale>], quantized: &mut [f32]) {
        assert_eq!(scales.len(), self.groups.len());
        assert_eq!(quantized.len(), levels.len());
        self.levels.copy_from_slice(levels);
        for ((group, scale), range) in self.groups.iter_mut().zip(scales).zip(self.layout.ranges())
        {
            *group = Group {
                scale: *scale,
                ..Group::default()
            };
            if let Some(scale) = *scale {
                let codebook = self.quantizer.codebook();
                codebook.decode(&levels[range.clone()], scale, &mut quantized[range]);
            }
        }
    }

    /// Solves all groups and writes ŵ. All slices have the length of the weights.
    ///
    /// # Errors
    /// That of the first group that failed, with its index.
    ///
    /// # Panics
    /// If the slices have other lengths.
    pub fn solve(
        &mut self,
        weights: &[f32],
        curvature: Curvature<'_>,
        quantized: &mut [f32],
    ) -> Result<(), (usize, SolveError)> {
        assert!(weights.len() == self.levels.len() && quantized.len() == weights.len());
        if let Some(values) = curvature.values() {
            assert_eq!(values.len(), weights.len());
        }
        let [size, groups] = self.task_sizes();
        if size == 0 {
            return Ok(());
        }
        let (layout, quantizer) = (self.layout, &self.quantizer);
        (self.tasks.par_iter_mut().enumerate())
            .zip(self.groups.par_chunks_mut(groups))
            .zip(self.levels.par_chunks_mut(size))
            .zip(weights.par_chunks(size))
            .zip(quantized.par_chunks_mut(size))
            .for_each(|(parts, quantized)| {
                let ((((index, task), of_task), levels), weights) = parts;
                for (within, group) in of_task.iter_mut().enumerate() {
                    let range = layout.range(within);
                    let start = index * size;
                    let solved = solve_group(
                        quantizer,
                        &weights[range.clone()],
                        curvature.part(start + range.start..start + range.end),
                        group.scale,
                        &mut levels[range.clone()],
                        &mut quantized[range],
                        &mut task.workspace,
                    );
                    match solved {
                        Ok(solution) => {
                            group.scale = Some(solution.scale);
                            group.solution = Some(solution);
                        }
                        Err(error) => {
                            task.error = Some((index * groups + within, error));
                            break;
                        }
                    }
                }
            });
        match self.tasks.iter_mut().find_map(|task| task.error.take()) {
            Some(error) => {
                self.tasks.iter_mut().for_each(|task| task.error = None);
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Turns ∂loss/∂ŵ into ∂loss/∂w, in place, and keeps the gradient of
    /// [`trained_scales`](Self::trained_scales). Changes nothing before the first solve, and for methods without
    /// [`Quantizer::has_latent_gradient`].
    ///
    /// # Panics
    /// If the slices have other lengths than the weights.
    pub fn latent_gradient(&mut self, weights: &[f32], gradient: &mut [f32]) {
        assert!(weights.len() == self.levels.len() && gradient.len() == weights.len());
        let [size, groups] = self.task_sizes();
        if size == 0 || !self.quantizer.has_latent_gradient() {
            return;
        }
        let (layout, quantizer) = (self.layout, &self.quantizer);
        (self.groups.par_chunks_mut(groups))
            .zip(self.levels.par_chunks(size))
            .zip(weights.par_chunks(size))
            .zip(gradient.par_chunks_mut(size))
            .for_each(|(((groups, levels), weights), gradient)| {
                for (group, range) in groups.iter_mut().zip(layout.ranges()) {
                    let Some(scale) = group.scale else { continue };
                    let (levels, gradient) = (&levels[range.clone()], &mut gradient[range.clone()]);
                    if let Some(scale_gradient) = quantizer.scale_gradient(levels, gradient) {
                        group.scale_gradient = scale_gradient;
                    }
                    quantizer.latent_gradient(&weights[range], scale, levels, gradient);
                }
            });
    }

    /// The weights and the groups of a task; the last has fewer.
    fn task_sizes(&self) -> [usize; 2] {
        let spans = spans_of_task(self.layout);
        [self.layout.span(), self.layout.per_span()].map(|size| spans * size)
    }
}

/// The spans of a task.
fn spans_of_task(layout: Groups) -> usize {
    layout.spans().div_ceil(TASKS).max(1)
}

fn solve_group(
    quantizer: &Quantizer,
    weights: &[f32],
    curvature: Curvature<'_>,
    previous: Option<Scale>,
    levels: &mut [i8],
    quantized: &mut [f32],
    workspace: &mut Workspace,
) -> Result<Solution, SolveError> {
    match curvature {
        Curvature::SecondMoment(second_moment) => quantizer.solve_step(
            weights,
            second_moment,
            previous,
            levels,
            quantized,
            workspace,
        ),
        Curvature::Given(curvature) => {
            let problem = Problem::new(weights, curvature)?;
            let solution = quantizer.solve(problem, previous, levels, workspace)?;
            quantizer
                .codebook()
                .decode(levels, solution.scale, quantized);
            Ok(solution)
        }
    }
}

#[cfg(test)]
mod tests {
    use laq_test_support::Random;

    use super::*;
    use crate::granularity::Granularity;
    use crate::method::Method;

    /// A cold start with a given curvature solves each group, and that of Adam's second moment is close to it.
    #[test]
    fn groups_are_separate_problems() {
        let (rows, columns) = (12, 75);
        let mut random = Random(5);
        let weights: Vec<f32> = (0..rows * columns)
            .map(|_| random.normal() as f32)
            .collect();
        let moments: Vec<f32> = (0..rows * columns)
            .map(|_| random.normal().powi(2) as f32)
            .collect();
        let d: Vec<f32> = moments
            .iter()
            .map(|v| v.sqrt() + crate::CURVATURE_FLOOR)
            .collect();
        for granularity in [
            Granularity::Tensor,
            Granularity::Gate,
            Granularity::Row,
            Granularity::Block(32),
        ] {
            for method in Method::all().filter(|method| method.quantizer().is_some()) {
                let quantizer = method.quantizer().unwrap();
                let groups = granularity.groups(rows, columns, 4);
                let mut levels = vec![0; weights.len()];
                let mut solve = |range: Range<usize>| {
                    let (w, d) = (&weights[range.clone()], &d[range.clone()]);
                    let group = Problem::new(w, Some(d)).unwrap();
                    let workspace = &mut Workspace::default();
                    quantizer.solve(group, None, &mut levels[range], workspace)
                };
                let expected = groups.ranges().map(|range| solve(range).unwrap());
                let expected: Vec<_> = expected.collect();
                let mut found = ParameterQuantizer::new(quantizer.clone(), groups);
                let mut quantized = vec![0.0; weights.len()];
                found
                    .solve(&weights, Curvature::Given(Some(&d)), &mut quantized)
                    .unwrap();
                assert_eq!(found.levels(), levels, "{}", method.id());
                assert!(found.solutions().eq(expected.iter().cloned().map(Some)));
                let mut decoded = vec![0.0; weights.len()];
                let scales: Vec<_> = found.scales().collect();
                ParameterQuantizer::new(quantizer.clone(), groups).load(
                    &levels,
                    &scales,
                    &mut decoded,
                );
                assert_eq!(decoded, quantized);
                let mut step = ParameterQuantizer::new(quantizer.clone(), groups);
                step.solve(&weights, Curvature::SecondMoment(&moments), &mut quantized)
                    .unwrap();
                for (step, whole) in step.solutions().zip(found.solutions()) {
                    let [step, whole] = [step, whole].map(|solved| solved.unwrap().weighted_error);
                    assert!(
                        (step - whole).abs() <= 1e-5 * whole,
                        "{}: {step} {whole}",
                        method.id()
                    );
                }
            }
        }
    }

    #[test]
    fn an_error_names_its_group() {
        let quantizer = "lat-e"
            .parse::<Method>()
            .unwrap()
            .quantizer()
            .unwrap()
            .clone();
        let mut found = ParameterQuantizer::new(quantizer, Groups::blocks(3, 4, 2));
        let mut weights = [0.5; 12];
        weights[7] = f32::NAN;
        let solved = found.solve(&weights, Curvature::Given(None), &mut [0.0; 12]);
        let error = SolveError::Weight {
            index: 1,
            value: f32::NAN,
        };
        assert_eq!(
            format!("{solved:?}"),
            format!("{:?}", Err::<(), _>((3, error)))
        );
    }
}
