// Calls a box through the client that was generated from its document. Arguments: its address, a JPEG.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Org.OpenAPITools.Api;
using Org.OpenAPITools.Client;
using Org.OpenAPITools.Model;

public static class Calls
{
    public static void Main(string[] arguments)
    {
        string address = arguments[0];
        byte[] picture = File.ReadAllBytes(arguments[1]);

        var judge = new JudgeApi(address);
        RecordedResult result = judge.PredictPicture(
            "surface", new FileParameter(new MemoryStream(picture)), durable: true, xPart: "P-1", xSource: "generated");
        Say("picture", Lower(result.Verdict), Lower(result.Recorded));
        result = judge.PredictForm(
            "surface", new FileParameter("part.jpg", new MemoryStream(picture)), part: "P-2", source: "generated");
        Say("form", Lower(result.Verdict), result.Part);
        string text = Convert.ToBase64String(picture);
        result = judge.PredictBase64("surface", new PictureInput(image: text, part: "P-3"));
        Say("base64", Lower(result.Verdict), result.Part);

        ResultPage page = new ResultsApi(address).ListResults(model: "surface", part: "P-1", limit: 1);
        Say("results", page.Results.Count, page.Results[0].Source);

        var tensor = new InferTensor(
            name: "image", datatype: "BYTES", shape: new List<long> { 1 }, data: new List<object> { text });
        InferResponse answer = new OpenInferenceProtocolApi(address).Infer(
            "surface", new InferRequest(inputs: new List<InferTensor> { tensor }));
        Say("tensors", answer.ModelName, answer.Outputs[0].Name, answer.Parameters["verdict"]);
    }

    // Names of enumerators begin with a capital in C#.
    private static string Lower(object word)
    {
        return word.ToString().ToLowerInvariant();
    }

    private static void Say(params object[] words)
    {
        Console.WriteLine(string.Join(" ", words));
    }
}
