//! A run: steps, checkpoints, logs, sample sheets.

use std::{
    fmt,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use burn::{module::Module, tensor::Device};
use serde_json::json;
use unclip_core::{Error as CoreError, device::among_workers};

use crate::{
    Error, Result,
    checkpoint::{Checkpoints, Opened, State},
    config::{RunConfig, StageConfig},
    data::{Sample, Skipped, Source},
    ema,
    export::write_index,
    log::Log,
    optimizer::{Optimizer, norm},
    parameters::{read, write},
    task::{Batch, ClipTask, DecoderTask, Gradients, PriorTask, Replica, Task, UpsamplerTask},
};

/// Samples on a sheet.
const SHEET: usize = 8;
/// The names of what a checkpoint holds twice of every weight.
const MODEL: &str = "model";
const AVERAGE: &str = "average";

/// What a step did.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// Steps taken so far, this one included.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Samples seen so far.
    pub seen: u64,
    /// The mean loss of the step's samples.
    pub loss: f64,
    /// The norm of all gradients together, before clipping.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// Further numbers of the stage.
    pub numbers: Vec<(&'static str, f64)>,
    /// Samples that the data skipped since this start.
    pub skipped: usize,
    /// How long the step took.
    pub duration: Duration,
    /// How long the rest will take, at the mean speed since this start.
    pub left: Duration,
    /// The checkpoint that was written after it.
    pub checkpoint: Option<PathBuf>,
}

/// A run of any stage.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use unclip_train::{RunConfig, Trainer};
///
/// let config = RunConfig::open("configs/clip.json")?;
/// let mut trainer = Trainer::start(config, &burn::tensor::Device::default())?;
/// trainer.run(|report| {
///     println!("{}: {}", report.step, report.loss);
///     ControlFlow::Continue(())
/// })?;
/// # Ok::<(), unclip_train::Error>(())
/// ```
pub struct Trainer {
    run: Box<dyn Running>,
}

impl fmt::Debug for Trainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer").field("step", &self.run.step()).finish_non_exhaustive()
    }
}

impl Trainer {
    /// Begins a run on `device`.
    ///
    /// # Errors
    ///
    /// [`Error::RunExists`] when there are checkpoints already; otherwise whatever the configuration, the data, the
    /// stages before this one and the file system have to say.
    pub fn start(config: RunConfig, device: &Device) -> Result<Self> {
        Self::start_on(config, std::slice::from_ref(device))
    }

    /// Begins a run on several devices of one kind, which share every batch: the step of one device that had memory for
    /// all of it, but for rounding. The first has the optimiser and the average.
    ///
    /// ```no_run
    /// use unclip_core::device::device;
    /// use unclip_train::{RunConfig, Trainer};
    ///
    /// let config = RunConfig::open("configs/decoder.json")?;
    /// let mut trainer = Trainer::start_on(config, &[device("cuda:0")?, device("cuda:1")?])?;
    /// # Ok::<(), unclip_train::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when there is no device, or fewer samples in a batch than devices; and as
    /// [`start`](Self::start).
    pub fn start_on(config: RunConfig, devices: &[Device]) -> Result<Self> {
        let checkpoints = Checkpoints::new(&config.output, config.training.keep);
        if checkpoints.latest()?.is_some() {
            return Err(Error::RunExists { output: config.output });
        }
        Self::open(config, devices, None)
    }

    /// Continues a run after its newest checkpoint, to the bits of a run that was never interrupted.
    ///
    /// Of the configuration, the seed and the networks' sizes have to be those of the checkpoint; the rest may change.
    ///
    /// # Errors
    ///
    /// [`Error::NoCheckpoint`]; [`Error::OtherRun`] when the checkpoint belongs to another run or another version of the
    /// layout; [`Error::Checkpoint`] when it is damaged; and as [`start`](Self::start).
    pub fn resume(config: RunConfig, device: &Device) -> Result<Self> {
        Self::resume_on(config, std::slice::from_ref(device))
    }

    /// As [`resume`](Self::resume), on several devices (see [`start_on`](Self::start_on)). Another number of devices than
    /// before adds gradients in another order, so bits are the same where the number is.
    ///
    /// # Errors
    ///
    /// As [`resume`](Self::resume) and [`start_on`](Self::start_on).
    pub fn resume_on(config: RunConfig, devices: &[Device]) -> Result<Self> {
        let checkpoints = Checkpoints::new(&config.output, config.training.keep);
        let Some(path) = checkpoints.latest()? else {
            return Err(Error::NoCheckpoint { output: config.output });
        };
        let opened = Opened::open(&path)?;
        Self::open(config, devices, Some(opened))
    }

    fn open(config: RunConfig, devices: &[Device], opened: Option<Opened>) -> Result<Self> {
        config.validate()?;
        let (batch, count) = (config.training.batch, devices.len());
        if count == 0 {
            return Err(CoreError::invalid("devices", "an empty list", "one device or more").into());
        }
        if batch < count {
            let expected = format!("{count} or more, a sample for each device");
            return Err(CoreError::invalid("batch", batch, expected).into());
        }
        let recording = devices.iter().map(|device| {
            let device = device.clone().autodiff();
            match config.training.gradient_checkpointing {
                true => device.gradient_checkpointing(),
                false => device,
            }
        });
        let devices: Vec<Device> = recording.collect();
        let run = match config.stage.clone() {
            StageConfig::Clip(stage) => {
                begin(config, &devices, opened, |run, _| ClipTask::open(&stage, run))
            }
            StageConfig::Prior(stage) => {
                begin(config, &devices, opened, |run, device| PriorTask::open(&stage, run, device))
            }
            StageConfig::Decoder(stage) => begin(config, &devices, opened, |run, device| {
                DecoderTask::open(&stage, run, device)
            }),
            StageConfig::Upsampler(stage) => {
                begin(config, &devices, opened, |_, _| UpsamplerTask::open(&stage))
            }
        };
        Ok(Self { run: run? })
    }

    /// Steps taken so far.
    pub fn step_count(&self) -> u64 {
        self.run.step()
    }

    /// Parameters of the network that is trained.
    pub fn parameters(&self) -> usize {
        self.run.parameters()
    }

    /// Takes one step, and writes the log, a sheet and a checkpoint where they are due.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when the loss or a gradient is no number, naming the last good checkpoint; what the data,
    /// the device and the file system report.
    pub fn step(&mut self) -> Result<StepReport> {
        self.run.take_step()
    }

    /// Takes the steps that are left, and writes a checkpoint at the end. `observer` is told of every step and may
    /// break off, which writes a checkpoint too.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn run(&mut self, mut observer: impl FnMut(&StepReport) -> ControlFlow<()>) -> Result<()> {
        while self.run.step() < self.run.steps() {
            let report = self.run.take_step()?;
            if observer(&report).is_break() {
                break;
            }
        }
        self.run.save()?;
        Ok(())
    }

    /// Writes a checkpoint and the model directory, unless that was done after the last step.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`], also when the disk is full; earlier checkpoints are untouched then.
    pub fn save(&mut self) -> Result<PathBuf> {
        self.run.save()
    }
}

/// A [`Run`] of whatever stage.
trait Running {
    fn step(&self) -> u64;
    fn steps(&self) -> u64;
    fn parameters(&self) -> usize;
    fn take_step(&mut self) -> Result<StepReport>;
    fn save(&mut self) -> Result<PathBuf>;
}

/// The run that `config` describes, of the stage that `open` gives for each device.
fn begin<T: Task + 'static>(
    config: RunConfig,
    devices: &[Device],
    opened: Option<Opened>,
    open: impl Fn(&RunConfig, &Device) -> Result<T>,
) -> Result<Box<dyn Running>> {
    let task = open(&config, &devices[0])?;
    let others = devices[1..].iter().map(|device| Ok((open(&config, device)?, device.clone())));
    let others = others.collect::<Result<_>>()?;
    Ok(Box::new(Run::new(task, others, config, &devices[0], opened)?))
}

/// A run of one stage.
struct Run<T: Task> {
    task: T,
    /// The same on the devices beside the first.
    others: Vec<(T, Device)>,
    config: RunConfig,
    source: Box<dyn Source + Send>,
    /// What the source gave and the stage cannot use.
    unfit: Skipped,
    /// Taken out for the length of an update.
    model: Option<T::Model>,
    average: Option<T::Model>,
    optimizer: Optimizer,
    step: u64,
    seen: u64,
    log: Log,
    checkpoints: Checkpoints,
    last: Option<PathBuf>,
    /// The step of the last checkpoint.
    saved_at: Option<u64>,
    /// The step of what this start has written into the model directory. One that was killed may have written a
    /// checkpoint and no model.
    exported_at: Option<u64>,
    /// When this start began, and after how many steps.
    started: (Instant, u64),
}

const PRESENT: &str = "the weights are put back before an update ends";

impl<T: Task> Run<T> {
    fn new(
        task: T,
        others: Vec<(T, Device)>,
        config: RunConfig,
        device: &Device,
        opened: Option<Opened>,
    ) -> Result<Self> {
        let checkpoints = Checkpoints::new(&config.output, config.training.keep);
        checkpoints.clean()?;
        let mut source = config.data.open(config.seed, 0, 1)?;
        let mut model = match &config.initial {
            Some(initial) if opened.is_none() => task.load(initial, device)?,
            _ => task.init(config.seed, opened.is_none(), device)?,
        };
        if let Some(dtype) = config.training.precision.activations(device) {
            model = T::compute_in(model, dtype);
        }
        let mut optimizer = Optimizer::new(config.training.optimizer);
        let (mut step, mut seen, mut last) = (0, 0, None);
        let average = match opened {
            None => model.valid(),
            Some(mut opened) => {
                opened.check(config.seed, &task.architecture(), task.foundation())?;
                (step, seen) = (opened.state.step, opened.state.seen);
                source.seek(&opened.state.cursor)?;
                let mut required = |name: &str, shape: &[usize]| opened.tensor(name, shape, true);
                model = write(model, MODEL, None, &mut required)?;
                let average = write(model.valid(), AVERAGE, None, &mut required)?;
                let time = usize::try_from(step).unwrap_or(usize::MAX);
                let mut optional = |name: &str, shape: &[usize]| opened.tensor(name, shape, false);
                model = optimizer.write(model, time, &mut optional)?;
                opened.finish()?;
                last = Some(opened.path.clone());
                average
            }
        };
        std::fs::create_dir_all(&config.output).map_err(CoreError::io("create", &config.output))?;
        unclip_core::checkpoint::write_json_atomic(config.output.join("config.json"), &config)?;
        let log = Log::open(&config.output, step)?;
        Ok(Self {
            task,
            others,
            source,
            unfit: Skipped::default(),
            model: Some(model),
            average: Some(average),
            optimizer,
            step,
            seen,
            log,
            checkpoints,
            saved_at: last.is_some().then_some(step),
            exported_at: None,
            last,
            started: (Instant::now(), step),
            config,
        })
    }

    fn samples(&mut self) -> Result<Vec<Sample>> {
        let count = self.config.training.batch;
        let mut samples = Vec::with_capacity(count);
        let mut fruitful = self.source.cursor().epoch();
        while samples.len() < count {
            let Some(sample) = self.source.next()? else {
                let reason = "the data ended, which an endless source never does".to_owned();
                return Err(Error::NothingUsable { reason });
            };
            let epoch = self.source.cursor().epoch();
            match self.task.unfit(&sample) {
                None => {
                    fruitful = epoch;
                    samples.push(sample);
                }
                Some(fault) if epoch > fruitful + 1 => {
                    let reason = format!("{} cannot be learned from: {fault}", sample.key);
                    return Err(Error::NothingUsable { reason });
                }
                Some(fault) => self.unfit.add(sample.key, fault),
            }
        }
        Ok(samples)
    }

    fn batch<'a>(&self, samples: &'a [Sample]) -> Batch<'a> {
        let part = self.config.training.part.unwrap_or(samples.len());
        Batch::new(samples, self.config.seed, self.step, part)
    }

    /// The loss of a batch and its gradients, from all devices.
    fn gradients(&self, batch: &Batch<'_>) -> Result<Gradients> {
        let mut replicas = vec![Replica { task: &self.task, model: self.model().clone() }];
        for (task, device) in &self.others {
            replicas.push(Replica { task, model: self.model().clone().fork(device) });
        }
        T::gradients(&replicas, batch)
    }

    /// Where the optimiser and the average are.
    fn device(&self) -> Device {
        self.model().devices()[0].clone()
    }

    fn model(&self) -> &T::Model {
        self.model.as_ref().expect(PRESENT)
    }

    /// Changes the weights and their average.
    fn update(&mut self, gradients: Gradients, norm: f64, rate: f64) {
        let batch = self.config.training.batch;
        self.step += 1;
        self.seen += batch as u64;
        let decay = self.config.training.ema.decay(batch, self.seen);
        let device = self.device();
        let model = self.model.take().expect(PRESENT);
        let average = self.average.take().expect(PRESENT);
        let optimizer = &mut self.optimizer;
        let (model, average) = among_workers(&device, || {
            let model = optimizer.step(model, gradients.params, norm, rate);
            let average = ema::update(average, &model, decay);
            (model, average)
        });
        self.model = Some(model);
        self.average = Some(average);
    }

    fn write_sheet(&mut self, samples: &[Sample]) -> Result<()> {
        let batch = self.batch(&samples[..samples.len().min(SHEET)]);
        let average = self.average.as_ref().expect(PRESENT);
        let Some(sheet) = self.task.sheet(average, &batch)? else { return Ok(()) };
        let folder = self.config.output.join("sheets");
        let path = folder.join(format!("step-{:010}.png", self.step));
        write_png(&path, &sheet)?;
        self.log.picture(self.step, "sheet", &sheet)
    }

    fn write_checkpoint(&mut self) -> Result<PathBuf> {
        let state = State {
            version: State::version(),
            step: self.step,
            seen: self.seen,
            cursor: self.source.cursor(),
            seed: self.config.seed,
            architecture: self.task.architecture(),
            foundation: self.task.foundation().map(str::to_owned),
            config: json!(self.config),
        };
        let path = self.checkpoints.save(&state, self.tensors()?)?;
        self.last = Some(path.clone());
        self.saved_at = Some(self.step);
        Ok(path)
    }

    fn tensors(&self) -> Result<Vec<(String, burn::tensor::TensorData)>> {
        let mut tensors = Vec::new();
        read(self.model(), MODEL, None, &mut tensors)?;
        read(self.average.as_ref().expect(PRESENT), AVERAGE, None, &mut tensors)?;
        self.optimizer.read(self.model(), &mut tensors)?;
        Ok(tensors)
    }
}

impl<T: Task> Running for Run<T> {
    fn step(&self) -> u64 {
        self.step
    }

    fn steps(&self) -> u64 {
        self.config.training.steps
    }

    fn parameters(&self) -> usize {
        self.model().num_params()
    }

    fn take_step(&mut self) -> Result<StepReport> {
        let begun = Instant::now();
        let samples = self.samples()?;
        let gradients = self.gradients(&self.batch(&samples))?;
        let norm = norm(self.model(), &gradients.params);
        let loss = gradients.loss;
        if !(loss.is_finite() && norm.is_finite()) {
            let checkpoint = self.last.clone();
            return Err(Error::NotFinite { step: self.step + 1, loss, norm, checkpoint });
        }
        let training = &self.config.training;
        let rate = training.rate.at(self.step, training.steps);
        let numbers = gradients.numbers.clone();
        self.update(gradients, norm, rate);

        let training = &self.config.training;
        let due = |every: u64| self.step.is_multiple_of(every);
        let (log, sheet) = (due(training.log_every), training.sheet_every.is_some_and(due));
        let checkpoint = due(training.checkpoint_every);
        if log {
            let mut all = vec![
                ("loss", loss),
                ("gradient_norm", norm),
                ("learning_rate", rate),
                ("samples_seen", self.seen as f64),
            ];
            all.extend(&numbers);
            self.log.step(self.step, &all)?;
        }
        if sheet {
            self.write_sheet(&samples)?;
        }
        let checkpoint = if checkpoint { Some(self.save()?) } else { None };
        let taken = self.step - self.started.1;
        let mean = self.started.0.elapsed().as_secs_f64() / taken.max(1) as f64;
        let rest = self.config.training.steps.saturating_sub(self.step) as f64;
        Ok(StepReport {
            step: self.step,
            steps: self.config.training.steps,
            seen: self.seen,
            loss,
            norm,
            rate,
            numbers,
            skipped: self.source.skipped().count() + self.unfit.count(),
            duration: begun.elapsed(),
            left: Duration::try_from_secs_f64(mean * rest).unwrap_or(Duration::MAX),
            checkpoint,
        })
    }

    fn save(&mut self) -> Result<PathBuf> {
        let path = match &self.last {
            Some(path) if self.saved_at == Some(self.step) => path.clone(),
            _ => self.write_checkpoint()?,
        };
        if self.exported_at != Some(self.step) {
            self.task.export(self.average.as_ref().expect(PRESENT), &self.config.model)?;
            write_index(&self.config.model)?;
            self.exported_at = Some(self.step);
        }
        Ok(path)
    }
}

fn write_png(path: &Path, picture: &image::RgbImage) -> Result<()> {
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).map_err(|source| CoreError::Picture {
        action: "encode",
        origin: path.display().to_string(),
        source,
    })?;
    Ok(unclip_core::checkpoint::write_atomic(path, png.get_ref())?)
}
