// Calls a box through the client that was generated from its document. Arguments: its address, a JPEG.

import java.io.File;
import java.nio.file.Files;
import java.util.Base64;
import java.util.List;
import org.openapitools.client.ApiClient;
import org.openapitools.client.api.JudgeApi;
import org.openapitools.client.api.OpenInferenceProtocolApi;
import org.openapitools.client.api.ResultsApi;
import org.openapitools.client.model.InferRequest;
import org.openapitools.client.model.InferResponse;
import org.openapitools.client.model.InferTensor;
import org.openapitools.client.model.PictureInput;
import org.openapitools.client.model.RecordedResult;
import org.openapitools.client.model.ResultPage;

public class Calls {
  public static void main(String[] arguments) throws Exception {
    ApiClient box = new ApiClient();
    box.setBasePath(arguments[0]);
    File picture = new File(arguments[1]);

    JudgeApi judge = new JudgeApi(box);
    RecordedResult result = judge.predictPicture(
        "surface", picture, true, null, null, "P-1", null, null, "generated", null, null);
    say("picture", result.getVerdict(), result.getRecorded());
    result = judge.predictForm("surface", picture, null, null, "P-2", null, null, "generated");
    say("form", result.getVerdict(), result.getPart());
    String text = Base64.getEncoder().encodeToString(Files.readAllBytes(picture.toPath()));
    result = judge.predictBase64("surface", new PictureInput().image(text).part("P-3"), null, null);
    say("base64", result.getVerdict(), result.getPart());

    ResultPage page = new ResultsApi(box).listResults("surface", null, null, "P-1", null, null, null, null, null, 1);
    say("results", page.getResults().size(), page.getResults().get(0).getSource());

    InferTensor tensor = new InferTensor().name("image").datatype("BYTES").shape(List.of(1L)).data(List.of(text));
    InferResponse answer = new OpenInferenceProtocolApi(box).infer(
        "surface", new InferRequest().inputs(List.of(tensor)), null, null, null, null, null);
    say("tensors", answer.getModelName(), answer.getOutputs().get(0).getName(), answer.getParameters().get("verdict"));
  }

  private static void say(Object... words) {
    for (int index = 0; index < words.length; index++) {
      System.out.print((index == 0 ? "" : " ") + words[index]);
    }
    System.out.println();
  }
}
