BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'digits_budget');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MINIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'id','"a87d02259ea445088dbc860ea3e7988d"');
INSERT INTO "study_user_attributes" VALUES(2,1,'asked','{"data": {"_target_": "src.data.digits.Digits", "root": null, "sha256": "f01e0fac881a597e2738624d91e71684022f8da9095060cfbef7d5f765693bb9", "test_share": 0.2, "validation_share": 0.15, "calibration_images": 200, "split_seed": 0, "mean": [0.3064], "std": [0.3763], "augmentation": null, "checksum": "f01e0fac881a597e2738624d91e71684022f8da9095060cfbef7d5f765693bb9"}, "model": {"_target_": "src.models.small_cnn.SmallCNN", "weights": null, "blocks": [[8], [16]], "dense": 32, "padding": 1, "batch_norm": true, "dropout": 0.1}, "training": {"_target_": "src.training.recipe.Recipe", "epochs": 3, "batch_size": 128, "optimizer": {"_target_": "torch.optim.SGD", "_partial_": true, "lr": 0.05, "momentum": 0.9, "nesterov": true, "weight_decay": 0.0005}, "rate": {"_target_": "src.training.rates.WarmupCosine", "warmup": 0.1}, "loss": {"_target_": "src.training.losses.CrossEntropy", "label_smoothing": 0.0}, "keep": "best", "precision": "auto"}, "target": {"onnxruntime": {"_target_": "src.deploy.onnxruntime.OnnxRuntime", "provider": "CPUExecutionProvider", "stored": "float32"}}, "board": {"_target_": "src.metrics.board.Board", "name": "none", "memory_bytes": null, "weights_in_memory": true, "storage_bytes": null, "runtimes": null, "arithmetic": null}, "timing": {"threads": 1, "seconds": 1.0, "rounds": 10, "largest_batch": 64}, "space": {"channels": {"_target_": "src.study.space.Step", "method": "prune_channels", "optional": true, "choose": {"sparsity": {"_target_": "src.study.space.Number", "mildest": 0.1, "hardest": 0.8, "log": false}, "fine_tune": {"epochs": {"_target_": "src.study.space.Whole", "mildest": 8, "hardest": 2, "log": false}}}}, "prune": {"_target_": "src.study.space.Step", "method": "prune_magnitude", "optional": true, "choose": {"sparsity": {"_target_": "src.study.space.Number", "mildest": 0.5, "hardest": 0.98, "log": false}, "fine_tune": {"epochs": {"_target_": "src.study.space.Whole", "mildest": 8, "hardest": 2, "log": false}, "optimizer": {"lr": {"_target_": "src.study.space.Number", "mildest": 0.003, "hardest": 0.05, "log": true}}}}}, "cluster": {"_target_": "src.study.space.Step", "method": "cluster", "optional": true, "choose": {"clusters": {"_target_": "src.study.space.Whole", "mildest": 64, "hardest": 4, "log": true}, "fine_tune": {"epochs": {"_target_": "src.study.space.Whole", "mildest": 6, "hardest": 1, "log": false}}}}, "quantize": {"_target_": "src.study.space.Step", "method": "quantize_int8", "optional": true}}, "budget": {"accuracy_drop": 0.5, "size_bytes": null, "size_gzip_bytes": null, "latency_ms": null, "energy_uj": null}, "seed": 0, "files": {}, "search": {"objectives": ["size_gzip_bytes"], "target": null, "lengths": [1.0], "sampler": {"_target_": "src.study.gaussian.GaussianProcess", "_partial_": true, "startup": 6, "most": 100}, "first": []}}');
INSERT INTO "study_user_attributes" VALUES(3,1,'begun','true');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'channels',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(2,1,'channels.sparsity',3.880368099419164718e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 0.8, "log": false}}');
INSERT INTO "trial_params" VALUES(3,1,'channels.fine_tune.epochs',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 2, "high": 8}}');
INSERT INTO "trial_params" VALUES(4,1,'prune',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(5,1,'prune.sparsity',9.19177552069350367602e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.5, "high": 0.98, "log": false}}');
INSERT INTO "trial_params" VALUES(6,1,'prune.fine_tune.epochs',8.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 2, "high": 8}}');
INSERT INTO "trial_params" VALUES(7,1,'prune.fine_tune.optimizer.lr',2.64636113146085281966e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.003, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(8,1,'cluster',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(9,1,'cluster.clusters',4.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 4, "high": 64}}');
INSERT INTO "trial_params" VALUES(10,1,'cluster.fine_tune.epochs',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 6}}');
INSERT INTO "trial_params" VALUES(11,1,'quantize',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(12,2,'channels',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(13,2,'channels.sparsity',7.95159090228054754589e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 0.8, "log": false}}');
INSERT INTO "trial_params" VALUES(14,2,'channels.fine_tune.epochs',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 2, "high": 8}}');
INSERT INTO "trial_params" VALUES(15,2,'prune',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(16,2,'prune.sparsity',7.67386772889625756732e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.5, "high": 0.98, "log": false}}');
INSERT INTO "trial_params" VALUES(17,2,'prune.fine_tune.epochs',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 2, "high": 8}}');
INSERT INTO "trial_params" VALUES(18,2,'prune.fine_tune.optimizer.lr',3.46190840926155832257e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.003, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(19,2,'cluster',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(20,2,'cluster.clusters',16.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 4, "high": 64}}');
INSERT INTO "trial_params" VALUES(21,2,'cluster.fine_tune.epochs',1.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 6}}');
INSERT INTO "trial_params" VALUES(22,2,'quantize',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(23,3,'channels',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(24,3,'channels.sparsity',2.66778443106537865858e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 0.8, "log": false}}');
INSERT INTO "trial_params" VALUES(25,3,'channels.fine_tune.epochs',8.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 2, "high": 8}}');
INSERT INTO "trial_params" VALUES(26,3,'prune',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(27,3,'prune.sparsity',9.5034512269659221495e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.5, "high": 0.98, "log": false}}');
INSERT INTO "trial_params" VALUES(28,3,'prune.fine_tune.epochs',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 2, "high": 8}}');
INSERT INTO "trial_params" VALUES(29,3,'prune.fine_tune.optimizer.lr',3.50604568407308081479e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.003, "high": 0.05, "log": true}}');
INSERT INTO "trial_params" VALUES(30,3,'cluster',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(31,3,'cluster.clusters',7.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 4, "high": 64}}');
INSERT INTO "trial_params" VALUES(32,3,'cluster.fine_tune.epochs',5.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 6}}');
INSERT INTO "trial_params" VALUES(33,3,'quantize',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'constraints:accuracy_drop','-0.068053463');
INSERT INTO "trial_system_attributes" VALUES(2,2,'constraints:accuracy_drop','-1.262680405');
INSERT INTO "trial_system_attributes" VALUES(3,3,'constraints:accuracy_drop','0.233614851');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'point','{"channels": true, "channels.sparsity": 0.38803680994191647, "channels.fine_tune.epochs": 3, "prune": true, "prune.sparsity": 0.9191775520693504, "prune.fine_tune.epochs": 8, "prune.fine_tune.optimizer.lr": 0.026463611314608528, "cluster": false, "quantize": false}');
INSERT INTO "trial_user_attributes" VALUES(2,1,'values','{"accuracy_validation": 0.3425925925925926, "size_bytes": 7692.0, "size_gzip_bytes": 1853.0, "parameters": 1362.0, "nonzero_parameters": 149.0, "macs": 14496.0, "peak_activation_bytes": 2560.0, "energy_uj_estimate": 0.9468915999999999, "bits_per_weight": 32.0}');
INSERT INTO "trial_user_attributes" VALUES(3,1,'accuracies','{"1.0": 0.3425925925925926}');
INSERT INTO "trial_user_attributes" VALUES(4,1,'busy_s','2.669940579000013');
INSERT INTO "trial_user_attributes" VALUES(5,1,'spent_s','3.577651138999954');
INSERT INTO "trial_user_attributes" VALUES(6,2,'point','{"channels": false, "prune": true, "prune.sparsity": 0.7673867728896258, "prune.fine_tune.epochs": 5, "prune.fine_tune.optimizer.lr": 0.0034619084092615583, "cluster": true, "cluster.clusters": 16, "cluster.fine_tune.epochs": 1, "quantize": true}');
INSERT INTO "trial_user_attributes" VALUES(7,2,'values','{"accuracy_validation": 0.8009259259259259, "size_bytes": 7059.0, "size_gzip_bytes": 2602.0, "parameters": 3658.0, "nonzero_parameters": 902.0, "macs": 25408.0, "peak_activation_bytes": 768.0, "energy_uj_estimate": 0.6271924, "bits_per_weight": 8.0}');
INSERT INTO "trial_user_attributes" VALUES(8,2,'accuracies','{"1.0": 0.8009259259259259}');
INSERT INTO "trial_user_attributes" VALUES(9,2,'busy_s','4.636364356000286');
INSERT INTO "trial_user_attributes" VALUES(10,2,'spent_s','5.59198546000016');
INSERT INTO "trial_user_attributes" VALUES(11,3,'point','{"channels": true, "channels.sparsity": 0.26677844310653787, "channels.fine_tune.epochs": 8, "prune": true, "prune.sparsity": 0.9503451226965922, "prune.fine_tune.epochs": 5, "prune.fine_tune.optimizer.lr": 0.03506045684073081, "cluster": false, "quantize": true}');
INSERT INTO "trial_user_attributes" VALUES(12,3,'values','{"accuracy_validation": 0.1111111111111111, "size_bytes": 5262.0, "size_gzip_bytes": 1722.0, "parameters": 1706.0, "nonzero_parameters": 132.0, "macs": 14832.0, "peak_activation_bytes": 768.0, "energy_uj_estimate": 0.30359959999999997, "bits_per_weight": 8.0}');
INSERT INTO "trial_user_attributes" VALUES(13,3,'accuracies','{"1.0": 0.1111111111111111}');
INSERT INTO "trial_user_attributes" VALUES(14,3,'busy_s','8.073235261999798');
INSERT INTO "trial_user_attributes" VALUES(15,3,'spent_s','9.102456725000138');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,1853.0,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,2602.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,1722.0,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-27 08:58:39.814918','2026-11-27 08:58:43.408221');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-27 08:58:43.473039','2026-11-27 08:58:49.083036');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-27 08:58:49.180174','2026-11-27 08:58:58.286809');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
