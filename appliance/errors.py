"""Every error that a user can meet.

    ApplianceError
    ├── ConfigError            configuration_invalid     the file or an option is wrong; exit 2
    │   ├── AddressRefused     address_refused           not a loopback address; exit 2
    │   └── DataDirError       data_dir_unusable         cannot be written or is in use; exit 2
    ├── PortInUse              port_in_use               exit 3
    ├── ModelError
    │   ├── ManifestError      manifest_invalid          the model is reported, the others go on
    │   ├── HashMismatch       model_hash_mismatch
    │   ├── ModelLoadError     model_load_failed
    │   ├── ModelNotFound      model_not_found
    │   ├── VersionNotFound    model_version_not_found
    │   ├── ModelNotReady      model_not_ready           still loading; try again
    │   ├── ModelFailed        model_failed              did not load; the status says why
    │   ├── ModelTooLarge      model_too_large           would not fit into the memory budget
    │   ├── RemoteUnavailable  remote_unavailable        the endpoint of a remote model does not answer
    │   ├── Unsigned           model_unsigned            a provisioned box runs signed models only
    │   └── ImportRefused      import_refused            a file that cannot become a model, or lacks an answer
    ├── InputError
    │   ├── EmptyBody          body_empty
    │   ├── BodyTooLarge       body_too_large
    │   ├── MediaTypeError     media_type_unsupported
    │   ├── DecodeError        input_undecodable         damaged, truncated, malformed
    │   ├── ImageTooLarge      image_too_large           a bomb: more pixels than allowed
    │   ├── ShapeError         input_shape_wrong
    │   ├── KeyReused          idempotency_key_reused    the key came before, with another input
    │   ├── DTypeError         input_type_wrong          an element type that is unknown or not the model's
    │   ├── CompressionError   body_undecompressable     damaged, of unknown coding, or a bomb
    │   ├── ValueRangeError    input_not_finite          NaN or infinity
    │   ├── FieldError         field_invalid             part, lot, recipe, source, a query parameter
    │   ├── RecipeUnknown      recipe_unknown            a recipe that the configuration does not have
    │   ├── RouteNotFound      route_not_found           an MQTT topic that no route names
    │   ├── RetainedStale      retained_not_a_reading    a retained message sent again on subscribe
    │   └── PoisonInput        input_poisonous           was in flight at two unclean stops
    ├── WrongMethod            method_not_allowed        an HTTP method that its path does not take
    ├── Overloaded             overloaded                lanes or intake are full; try again later
    ├── InferenceTimeout       inference_timeout
    │   └── LaneTimeout        inference_timeout         waited too long for a lane, and never ran
    │       └── Expired        expired                   its own deadline passed first, and it never ran
    ├── InferenceError         inference_failed          the runtime refused this input
    ├── CameraError            camera_unavailable        a trigger's camera does not answer
    │   ├── FrameMissing       frame_missing             no picture came in time
    │   └── FrameTooOld        frame_too_old             and the last one is too old
    ├── AnswerLate             answer_late               the verdict was not there in time
    ├── Interrupted            interrupted               the box stopped before it could answer
    ├── BackupError            backup_refused            a backup that cannot be made, or is not as it was made
    ├── UpdateError            update_failed             nothing that served before is touched
    │   ├── Untrusted          update_untrusted          a signature, hash, length or name is not as it was signed
    │   ├── MetadataExpired    metadata_expired          signed, but too old by now
    │   ├── ClockUntrusted     clock_untrusted           the clock is behind what was signed, or far beyond it
    │   ├── RolledBack         update_rolled_back        older than what this box trusts already
    │   ├── ReleaseInvalid     release_invalid           signed, but not a release that this box understands
    │   ├── Unsuitable         release_unsuitable        needs what this box does not have
    │   ├── NoSpace            update_no_space           the disk cannot take it, with figures
    │   ├── RegistryUnavailable  registry_unavailable    it does not answer, or not as a registry; try again later
    │   ├── SelfTestFailed     self_test_failed          its golden cases do not hold on this hardware
    │   ├── VersionBlocked     version_blocked           rejected on this box, or withdrawn by central ops
    │   ├── UpdateBusy         update_busy               another updater runs
    │   └── OrderRefused       order_refused             a roll-back or promotion that is not possible now
    ├── RegistryError          registry_refused          a registry that cannot be written, or a senseless order
    ├── StoreError
    │   ├── StoreFull          store_full                the disk or its quota is full
    │   └── StoreUnavailable   store_unavailable
    └── NotFound
        ├── TriggerNotFound    trigger_not_found
        ├── RolloutNotFound    rollout_not_found
        ├── ResultNotFound     result_not_found
        └── SourceNotFound     source_not_found

`code` is public: it appears in HTTP problem bodies, dead letters and logs, and does not change. The message is one
line: what came, what was expected, what to do. This module knows no transport; each door maps classes to its own
status codes.
"""

from __future__ import annotations


class ApplianceError(Exception):
    """Base of all errors with a stable `code`."""

    code = "internal_error"


class ConfigError(ApplianceError):
    code = "configuration_invalid"


class AddressRefused(ConfigError):
    code = "address_refused"


class DataDirError(ConfigError):
    code = "data_dir_unusable"


class PortInUse(ApplianceError):
    code = "port_in_use"


class ModelError(ApplianceError):
    code = "model_error"


class ManifestError(ModelError):
    code = "manifest_invalid"


class HashMismatch(ModelError):
    code = "model_hash_mismatch"


class ModelLoadError(ModelError):
    code = "model_load_failed"


class ModelNotFound(ModelError):
    code = "model_not_found"


class VersionNotFound(ModelError):
    code = "model_version_not_found"


class ModelNotReady(ModelError):
    code = "model_not_ready"


class ModelFailed(ModelError):
    code = "model_failed"


class ModelTooLarge(ModelLoadError):
    code = "model_too_large"


class RemoteUnavailable(ModelError):
    code = "remote_unavailable"


class Unsigned(ModelError):
    code = "model_unsigned"


class ImportRefused(ModelError):
    code = "import_refused"


class InputError(ApplianceError):
    code = "input_invalid"


class EmptyBody(InputError):
    code = "body_empty"


class BodyTooLarge(InputError):
    code = "body_too_large"


class MediaTypeError(InputError):
    code = "media_type_unsupported"


class DecodeError(InputError):
    code = "input_undecodable"


class ImageTooLarge(InputError):
    code = "image_too_large"


class ShapeError(InputError):
    code = "input_shape_wrong"


class KeyReused(InputError):
    """The key came before, with another input."""

    code = "idempotency_key_reused"


class DTypeError(InputError):
    code = "input_type_wrong"


class CompressionError(InputError):
    code = "body_undecompressable"


class ValueRangeError(InputError):
    code = "input_not_finite"


class FieldError(InputError):
    code = "field_invalid"


class RecipeUnknown(InputError):
    code = "recipe_unknown"


class RouteNotFound(InputError):
    code = "route_not_found"


class RetainedStale(InputError):
    code = "retained_not_a_reading"


class PoisonInput(InputError):
    code = "input_poisonous"


class WrongMethod(ApplianceError):
    """allow: the methods that this path takes, for the caller to see."""

    code = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class Overloaded(ApplianceError):
    code = "overloaded"


class InferenceTimeout(ApplianceError):
    code = "inference_timeout"


class LaneTimeout(InferenceTimeout):
    """The input was never tried, so whoever has no hurry may offer it again."""


class Expired(LaneTimeout):
    """The deadline that its sender gave passed while it waited."""

    code = "expired"


class InferenceError(ApplianceError):
    code = "inference_failed"


class CameraError(ApplianceError):
    code = "camera_unavailable"


class FrameMissing(CameraError):
    code = "frame_missing"


class FrameTooOld(CameraError):
    code = "frame_too_old"


class AnswerLate(ApplianceError):
    """Of a trigger: its answer says so, and a verdict that comes later is recorded only."""

    code = "answer_late"


class Interrupted(ApplianceError):
    code = "interrupted"


class BackupError(ApplianceError):
    code = "backup_refused"


class UpdateError(ApplianceError):
    code = "update_failed"


class Untrusted(UpdateError):
    code = "update_untrusted"


class MetadataExpired(UpdateError):
    code = "metadata_expired"


class ClockUntrusted(UpdateError):
    code = "clock_untrusted"


class RolledBack(UpdateError):
    code = "update_rolled_back"


class ReleaseInvalid(UpdateError):
    code = "release_invalid"


class Unsuitable(UpdateError):
    code = "release_unsuitable"


class NoSpace(UpdateError):
    code = "update_no_space"


class RegistryUnavailable(UpdateError):
    """answered: something answered, if not as it should. again: another try soon may do better, as not after a 4xx.

    retry_after_s: how long the registry asked to be left alone.
    """

    code = "registry_unavailable"

    def __init__(
        self, message: str, *, answered: bool = False, again: bool = True, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.again = again
        self.retry_after_s = retry_after_s


class SelfTestFailed(UpdateError):
    code = "self_test_failed"


class VersionBlocked(UpdateError):
    code = "version_blocked"


class UpdateBusy(UpdateError):
    code = "update_busy"


class OrderRefused(UpdateError):
    code = "order_refused"


class RegistryError(ApplianceError):
    code = "registry_refused"


class StoreError(ApplianceError):
    code = "store_error"


class StoreFull(StoreError):
    code = "store_full"


class StoreUnavailable(StoreError):
    code = "store_unavailable"


class NotFound(ApplianceError):
    code = "not_found"


class TriggerNotFound(NotFound):
    code = "trigger_not_found"


class RolloutNotFound(NotFound):
    code = "rollout_not_found"


class ResultNotFound(NotFound):
    code = "result_not_found"


class SourceNotFound(NotFound):
    code = "source_not_found"
